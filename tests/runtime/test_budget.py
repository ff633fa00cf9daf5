"""PASS, FAIL or INCONCLUSIVE: and never a good result from too little."""

from __future__ import annotations

import json

import numpy as np
import pytest

from enginewright_runtime.budget import (
    BUDGET_RULES,
    Evidence,
    Finding,
    Verdict,
    judge,
    overall,
    pending,
    percentile_interval_ns,
)
from enginewright_runtime.canonical import canonical_bytes
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.exit_codes import ExitCode


def sessions_of(slow: list[int], *, each: int) -> list[list[int]]:
    """Sessions of `each` inferences of 1 ms, of which a number are of 3 ms."""
    return [[3_000_000] * count + [1_000_000] * (each - count) for count in slow]


def latency(slow: list[int], *, each: int, limit: float = 2.0, name: str = "latency_p99_ms") -> Finding:
    """The finding for such sessions."""
    [finding] = judge({name: limit}, Evidence(sessions_ns=sessions_of(slow, each=each)))
    return finding


def test_298_fast_samples_cannot_pass_a_p99_budget() -> None:
    assert latency([0, 0], each=149).verdict is Verdict.INCONCLUSIVE
    assert latency([0, 0], each=149).sentence == (
        "latency_p99_ms cannot be judged: p99 needs 299 samples or more, and there are 298"
    )


def test_300_fast_samples_of_two_sessions_pass_a_p99_budget() -> None:
    finding = latency([0, 0], each=150)
    assert finding.verdict is Verdict.PASS
    assert finding.value == finding.high == 1.0
    assert finding.sentence == (
        "latency_p99_ms is 1, within the budget of 2: 0.00% to 0.99% of inferences are slower than it, and 1% may be"
    )


def test_one_process_however_long_cannot_pass() -> None:
    finding = latency([0], each=5000)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "two sessions or more" in finding.sentence


def test_a_p99_beyond_the_limit_in_every_session_fails() -> None:
    finding = latency([30, 28, 33, 31], each=200)
    assert finding.verdict is Verdict.FAIL
    assert finding.low == 3.0
    assert finding.sentence.startswith("latency_p99_ms is 3, beyond the budget of 2: ")


def test_a_share_near_the_allowed_one_is_inconclusive() -> None:
    finding = latency([2, 3, 1, 2], each=200)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "neither surely within nor surely beyond the budget of 2" in finding.sentence


def test_slow_samples_in_one_session_alone_do_not_fail_the_budget_for_sure() -> None:
    """24 of 800 are 3 %, but they came from one process: that may be its own misfortune."""
    assert latency([24, 0, 0, 0], each=200).verdict is Verdict.INCONCLUSIVE
    assert latency([6, 6, 6, 6], each=200).verdict is Verdict.FAIL


def test_a_median_budget_allows_half_of_the_inferences_to_be_slower() -> None:
    assert latency([30, 35, 33, 31], each=100, name="latency_p50_ms").verdict is Verdict.PASS
    assert latency([50, 50, 50, 50], each=100, name="latency_p50_ms").verdict is Verdict.INCONCLUSIVE
    assert latency([70, 75, 73, 71], each=100, name="latency_p50_ms").verdict is Verdict.FAIL


def test_an_inference_of_exactly_the_limit_is_within_it() -> None:
    assert latency([0] * 4, each=200, limit=1.0).verdict is Verdict.PASS


def test_the_interval_agrees_with_the_verdict() -> None:
    generator = np.random.default_rng(5)
    for _ in range(12):
        centres = generator.normal(1, 0.03, 8)
        sessions = [[int(1e6 * x) for x in generator.lognormal(np.log(centre), 0.1, 200)] for centre in centres]
        limit = float(generator.uniform(1.1, 1.5))
        [finding] = judge({"latency_p99_ms": limit}, Evidence(sessions_ns=sessions))
        assert finding.low is not None
        assert finding.high is not None
        assert finding.low <= (finding.value or 0) <= finding.high
        expected = Verdict.PASS if finding.high <= limit else Verdict.FAIL if finding.low > limit else None
        assert finding.verdict is (expected or Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("name", "evidence", "limit", "verdict", "sentence"),
    [
        ("size_mib", Evidence(size_bytes=1 << 20), 1.0, Verdict.PASS, "size_mib is 1, within the budget of 1"),
        ("size_mib", Evidence(size_bytes=2 << 20), 1.0, Verdict.FAIL, "size_mib is 2, beyond the budget of 1"),
        ("memory_mib", Evidence(peak_memory_bytes=1 << 20), 2, Verdict.PASS, "memory_mib is 1, within the budget of 2"),
        ("memory_mib", Evidence(peak_memory_bytes=3 << 20), 2, Verdict.FAIL, "memory_mib is 3, beyond the budget of 2"),
        (
            "accuracy_drop",
            Evidence(accuracy_drop=0.004, accuracy_drop_interval=(0.001, 0.007)),
            0.01,
            Verdict.PASS,
            "accuracy_drop is 0.004, within the budget of 0.01 (between 0.001 and 0.007)",
        ),
        (
            "accuracy_drop",
            Evidence(accuracy_drop=0.01, accuracy_drop_interval=(0.0, 0.02)),
            0.01,
            Verdict.INCONCLUSIVE,
            "accuracy_drop is 0.01, neither surely within nor surely beyond the budget of 0.01 (between 0 and 0.02)",
        ),
        (
            "accuracy_drop",
            Evidence(accuracy_drop=0.03, accuracy_drop_interval=(0.02, 0.04)),
            0.01,
            Verdict.FAIL,
            "accuracy_drop is 0.03, beyond the budget of 0.01 (between 0.02 and 0.04)",
        ),
        (
            "accuracy_drop",
            Evidence(accuracy_drop=-0.001),
            0.01,
            Verdict.PASS,
            "accuracy_drop is -0.001, within the budget of 0.01",
        ),
    ],
)
def test_each_budget_has_its_rule(name: str, evidence: Evidence, limit: float, verdict: Verdict, sentence: str) -> None:
    [finding] = judge({name: limit}, evidence)
    assert finding.verdict is verdict
    assert finding.sentence == sentence


@pytest.mark.parametrize("name", [*BUDGET_RULES, "energy_mj"])
def test_what_was_not_measured_or_is_not_known_is_inconclusive(name: str) -> None:
    [finding] = judge({name: 1000.0}, Evidence())
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.value is finding.low is finding.high is None
    assert finding.sentence.startswith(f"{name} cannot be judged: ")


def test_sessions_of_different_lengths_are_not_pooled() -> None:
    [finding] = judge({"latency_p99_ms": 2.0}, Evidence(sessions_ns=[[1] * 300, [1] * 299]))
    assert finding.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([], Verdict.PASS),
        ([Verdict.PASS, Verdict.PASS], Verdict.PASS),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE),
        ([Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.PASS], Verdict.FAIL),
    ],
)
def test_the_worst_finding_decides(verdicts: list[Verdict], together: Verdict) -> None:
    findings = [Finding("size_mib", 1.0, None, None, None, verdict, "") for verdict in verdicts]
    assert overall(findings) is together


def test_each_verdict_has_its_exit_code() -> None:
    codes = {verdict.value: verdict.exit_code for verdict in Verdict}
    assert codes == {
        "PASS": ExitCode.OK,
        "FAIL": ExitCode.FAILED,
        "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
        "PENDING": ExitCode.INCONCLUSIVE,
    }


def test_what_has_no_value_is_pending_and_what_was_judged_stays() -> None:
    found = pending(judge({"latency_p99_ms": 1.0, "size_mib": 1.0, "accuracy_drop": 0.01}, Evidence(accuracy_drop=0.0)))
    assert [(one.name, one.verdict) for one in found] == [
        ("latency_p99_ms", Verdict.PENDING),
        ("size_mib", Verdict.PENDING),
        ("accuracy_drop", Verdict.PASS),
    ]
    assert overall(found) is Verdict.PENDING
    missed = pending(judge({"latency_p99_ms": 1.0, "accuracy_drop": 0.01}, Evidence(accuracy_drop=0.5)))
    assert overall(missed) is Verdict.FAIL


def test_a_finding_is_json() -> None:
    found = json.loads(canonical_bytes(latency([0, 0], each=150).to_json()))
    assert found["verdict"] == "PASS"
    assert found["limit"] == 2.0


def test_the_interval_of_a_median_is_wider_where_sessions_differ() -> None:
    alike = [range(1_000, 1_030)] * 4
    apart = [range(1_000 + shift, 1_030 + shift) for shift in (0, 5, 10, 15)]
    # Between the 49th and the 72nd of 120 independent samples lies the median with 95 % (tables of order statistics).
    assert percentile_interval_ns(alike, 50, alpha=0.025) == (1_012, 1_017)
    assert percentile_interval_ns(alike, 50, alpha=0.0001) == (1_009, 1_020)
    low, high = percentile_interval_ns(apart, 50, alpha=0.025)
    assert high is not None
    assert high - low > 3 * (1_017 - 1_012)


def test_one_session_gives_no_interval() -> None:
    with pytest.raises(NotEnoughSamples, match="two sessions or more"):
        percentile_interval_ns([range(300)], 50)
