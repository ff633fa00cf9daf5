"""What the gate says, as golden texts, and what CI reads of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.builder.gate.gate_cases import results

from enginewright.gate.delivery import deliver
from enginewright.gate.outputs import gate_annotations, gate_junit, gate_markdown, gate_text
from enginewright.gate.result import GateResult
from enginewright.gate.run import GateRun
from enginewright_runtime.budget import Verdict

GOLDEN = Path(__file__).parents[2] / "golden/gate"
RESULTS = results()


@pytest.mark.parametrize("case", sorted(RESULTS))
@pytest.mark.parametrize(("write", "suffix"), [(gate_text, "txt"), (gate_markdown, "md"), (gate_junit, "xml")])
def test_a_result_has_the_golden_text(case: str, write: Callable[[GateResult], str], suffix: str) -> None:
    assert write(RESULTS[case]) == (GOLDEN / f"{case}.{suffix}").read_text()


@pytest.mark.parametrize(
    ("case", "verdict"), [("pass", Verdict.PASS), ("fail", Verdict.FAIL), ("inconclusive", Verdict.INCONCLUSIVE)]
)
def test_the_worst_verdict_of_all_baselines_counts(case: str, verdict: Verdict) -> None:
    assert RESULTS[case].verdict is verdict
    both = (*RESULTS["pass"].comparisons, *RESULTS[case].comparisons)
    assert replace(RESULTS[case], comparisons=both).verdict is verdict


def test_the_reason_is_one_sentence_that_names_the_baseline_where_there_are_several() -> None:
    assert RESULTS["fail"].reason.startswith("against release|<1>.ewb: latency changed by +5.7 % (")
    assert RESULTS["inconclusive"].reason.startswith("the time was over after 10 of 40 sessions: latency changed by ")


def test_json_has_every_figure_and_no_more_than_json_can_say() -> None:
    for result in RESULTS.values():
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert written["verdict"] == result.verdict.value
        assert written["comparisons"][-1]["findings"][0]["limits"] == {"fail_beyond": 0.005, "pass_within": 0.03}


def test_the_gpu_is_named_with_its_power_mode_where_there_is_one() -> None:
    gpu = {"name": "Orin", "sm_count": 16, "power_mode": "MAXN"}
    said = gate_text(replace(RESULTS["pass"], host={**RESULTS["pass"].host, "gpu": gpu}))
    assert "on Imaginary 9000 with 2 cores and its Orin (16 SMs, power mode MAXN)" in said
    said = gate_text(replace(RESULTS["pass"], host={"gpu": {"name": "NVIDIA H200", "sm_count": 132}}))
    assert "and its NVIDIA H200 (132 SMs)" in said


def test_junit_counts_what_it_holds() -> None:
    for result in RESULTS.values():
        suite = ElementTree.fromstring(gate_junit(result)).find("testsuite")
        assert suite is not None
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))


def test_an_annotation_is_one_line_whatever_a_path_holds() -> None:
    odd = replace(RESULTS["fail"], candidate="new\n::error::injected 100%")
    lines = gate_annotations(odd)
    assert len(lines) == 2
    assert lines[0].startswith(
        "::notice title=enginewright gate%3A PASS::new%0A::error::injected 100%25 against main.ewb:"
    )
    assert lines[1].startswith("::error title=enginewright gate%3A FAIL::")
    assert not any("\n" in line for line in lines)
    assert gate_annotations(RESULTS["inconclusive"])[0].startswith("::warning ")


def test_the_job_summary_of_github_is_appended_to_and_files_are_written(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    run = GateRun(RESULTS["pass"], ())
    deliver(
        run,
        markdown=tmp_path / "gate.md",
        junit=tmp_path / "gate.xml",
        output=tmp_path / "m.json",
        environment={"GITHUB_STEP_SUMMARY": str(summary)},
    )
    assert (
        summary.read_text()
        == "before\n" + gate_markdown(RESULTS["pass"])
        == "before\n" + (tmp_path / "gate.md").read_text()
    )
    assert (tmp_path / "gate.xml").read_text() == gate_junit(RESULTS["pass"])
    assert not (tmp_path / "m.json").exists()  # nothing was measured
