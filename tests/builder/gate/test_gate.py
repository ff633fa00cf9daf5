"""The whole gate on bundles, and on measurements that were stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from onnx import helper, load_from_string
from tests.builder.gate.gate_cases import QUICK, DeafWatch, MadeUpMeasuring
from tests.runtime.tiny_bundle import SETTINGS, make_bundle, tiny_golden, tiny_manifest, tiny_model
from tests.tiny_project import Finished

from enginewright.cli import main
from enginewright.errors import UsageError
from enginewright.gate import paired, run, stored
from enginewright.gate.result import GateFinding, GateResult
from enginewright_runtime.backends import backend
from enginewright_runtime.budget import Verdict
from enginewright_runtime.bundle import write_bundle
from enginewright_runtime.errors import BundleError, MeasurementError, NoEngineFits
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.measurement import Measurement

Gate = Callable[..., GateResult]


def bundle(path: Path, *, name: str = "tiny", accuracy: float | None = 0.94, operators: int = 1) -> Path:
    """A tiny bundle whose network has a name, and some operators more."""
    model = load_from_string(tiny_model())
    model.graph.name = name
    for index in range(operators - 1):
        model.graph.node[-1].output[0] = f"more{index}"
        model.graph.node.append(helper.make_node("Exp" if index % 2 else "Tanh", [f"more{index}"], ["y"]))
    chosen = backend("onnxruntime")
    requires = chosen.requires()
    fingerprint = chosen.fingerprint(requires)
    network = model.SerializeToString()
    entry = EngineEntry(fingerprint, "onnxruntime", f"engines/{fingerprint}/engine", SETTINGS, requires)
    manifest = replace(tiny_manifest(), engines=(entry,))
    manifest = replace(manifest, accuracy={} if accuracy is None else {"engine": accuracy})
    files = {"golden.npz": tiny_golden().to_bytes(), entry.path: chosen.compile(network, SETTINGS)}
    write_bundle(path, manifest, files)
    return path


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Runs the gate on made-up sessions."""
    monkeypatch.setattr(paired, "Measuring", MadeUpMeasuring)
    monkeypatch.setattr(stored, "Measuring", MadeUpMeasuring)

    def judged(candidate: Path, *against: Path, **options: object) -> GateResult:
        return run.run_gate(candidate, against, watch=DeafWatch(), **options).result  # type: ignore[arg-type] # passed on

    return judged


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A candidate and a baseline that differ in a name."""
    return bundle(tmp_path / "new.ewb", name="new"), bundle(tmp_path / "old.ewb", name="old")


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MadeUpMeasuring, "ratios", {"candidate": 1.1})


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MadeUpMeasuring, "spread", 0.001)


def finding(result: GateResult, metric: str) -> GateFinding:
    return next(one for one in result.comparisons[0].findings if one.metric == metric)


@pytest.mark.usefixtures("steady")
def test_an_equal_candidate_passes_in_every_metric(gate: Gate, two: tuple[Path, Path]) -> None:
    result = gate(*two)
    assert result.verdict is Verdict.PASS
    assert [one.metric for one in result.comparisons[0].findings] == [
        "centre",
        "p90",
        "tail",
        "accuracy",
        "size",
        "memory",
    ]
    assert result.reason == (
        "latency, p90 latency, slow inferences, accuracy, engine size and memory are within the limits"
    )
    assert result.samples == 200 * result.comparisons[0].sessions


@pytest.mark.usefixtures("slower")
def test_a_slower_candidate_fails_and_the_reason_has_the_interval(gate: Gate, two: tuple[Path, Path]) -> None:
    result = gate(*two)
    assert result.verdict is Verdict.FAIL
    assert result.comparisons[0].sessions == 8
    assert result.reason.startswith("latency changed by +")
    assert result.reason.endswith(" %): surely beyond +0.5 %")


@pytest.mark.usefixtures("slower")
def test_only_the_metrics_that_were_asked_for_are_judged(gate: Gate, two: tuple[Path, Path]) -> None:
    result = gate(*two, metrics=("accuracy", "size"))
    assert [one.metric for one in result.comparisons[0].findings] == ["accuracy", "size"]
    assert (result.verdict, result.samples) == (Verdict.PASS, 0)


@pytest.mark.parametrize(
    ("accuracy", "profile", "verdict"),
    [
        (0.939, "strict", Verdict.PASS),
        (0.938, "strict", Verdict.PASS),
        (0.937, "strict", Verdict.FAIL),
        (0.937, "standard", Verdict.PASS),
        (0.99, "strict", Verdict.PASS),
        (None, "strict", Verdict.INCONCLUSIVE),
    ],
)
def test_accuracy_is_judged_as_it_stands_in_the_bundles(
    gate: Gate, tmp_path: Path, accuracy: float | None, profile: str, verdict: Verdict
) -> None:
    new, old = bundle(tmp_path / "new.ewb", name="new", accuracy=accuracy), bundle(tmp_path / "old.ewb", accuracy=0.94)
    assert gate(new, old, metrics=("accuracy",), profile=profile).verdict is verdict


def test_a_larger_engine_fails(gate: Gate, tmp_path: Path) -> None:
    new, old = bundle(tmp_path / "new.ewb", operators=20), bundle(tmp_path / "old.ewb")
    result = gate(new, old, metrics=("size",))
    assert result.verdict is Verdict.FAIL
    assert gate(old, new, metrics=("size",)).verdict is Verdict.PASS


def test_accuracy_and_size_are_judged_where_the_engine_does_not_run(
    gate: Gate, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend("onnxruntime")), "misfit", lambda self, requires: "it is for another processor")
    assert gate(*two, metrics=("accuracy", "size")).verdict is Verdict.PASS
    with pytest.raises(NoEngineFits, match="it is for another processor"):
        gate(*two)


@pytest.mark.usefixtures("steady")
def test_memory_without_a_measurement_is_inconclusive(gate: Gate, two: tuple[Path, Path]) -> None:
    assert gate(*two, metrics=("memory",)).verdict is Verdict.INCONCLUSIVE
    assert finding(gate(*two, metrics=("latency", "memory")), "memory").verdict is Verdict.PASS


@pytest.mark.usefixtures("slower")
def test_the_same_engine_is_not_measured_and_passes(gate: Gate, tmp_path: Path) -> None:
    new = make_bundle(tmp_path / "new.ewb")
    old = make_bundle(tmp_path / "old.ewb", manifest=replace(tiny_manifest(), recipe="recipe: 1\nname: another\n"))
    result = gate(new, old)
    assert result.verdict is Verdict.PASS
    assert result.samples == 0
    assert (
        finding(result, "latency").sentence == "latency cannot differ: both bundles hold the same engine, to the byte"
    )


def test_against_several_baselines_the_worst_verdict_counts(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, base, release = (bundle(tmp_path / f"{name}.ewb", name=name) for name in ("new", "base", "release"))
    monkeypatch.setattr(MadeUpMeasuring, "ratios", {"baseline 2": 0.9})
    result = gate(new, base, release)
    assert result.verdict is Verdict.FAIL
    assert [one.verdict for one in result.comparisons] == [Verdict.INCONCLUSIVE, Verdict.FAIL]
    assert result.reason.startswith(f"against {release}: latency changed by +")


def kept(path: Path, here: dict[str, object], **changed: object) -> Path:
    """A measurement file of eight made-up sessions of one engine."""
    with MadeUpMeasuring({"engine": None}, {}) as measuring:  # type: ignore[dict-item] # no engine is opened
        for _ in range(8):
            measuring.take_session()
        measurement = measuring.measurement()
    path.write_bytes(replace(measurement, host=here, **changed).to_bytes())  # type: ignore[arg-type] # as given
    return path


@pytest.mark.parametrize(
    ("ratio", "spread", "verdict"),
    [
        (1.0, 0.01, Verdict.PASS),
        (1.08, 0.01, Verdict.PASS),
        (1.4, 0.01, Verdict.FAIL),
        (1.15, 0.2, Verdict.INCONCLUSIVE),
    ],
)
def test_against_a_file_only_changes_beyond_a_machine_s_drift_fail(
    gate: Gate,
    two: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    spread: float,
    verdict: Verdict,
) -> None:
    monkeypatch.setattr(stored, "fingerprint_for", lambda backends: {"cpu": "this"})
    monkeypatch.setattr(MadeUpMeasuring, "ratios", {"candidate": ratio})
    monkeypatch.setattr(MadeUpMeasuring, "spread", spread)
    result = gate(two[0], kept(tmp_path / "m.json", {"cpu": "this"}), metrics=("latency",))
    assert result.verdict is verdict
    assert [one.metric for one in result.comparisons[0].findings] == ["centre", "p90"]
    assert "the baseline is stored numbers: a machine drifts" in result.notes[0]


def test_what_a_file_cannot_tell_is_said_and_not_passed_over(
    gate: Gate, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "fingerprint_for", lambda backends: {"cpu": "this"})
    file = kept(tmp_path / "m.json", {"cpu": "this"})
    unmeasured = gate(two[0], file, metrics=("size", "memory"))
    assert finding(unmeasured, "memory").verdict is Verdict.INCONCLUSIVE
    assert "no latency was asked for, so that no memory was measured" in finding(unmeasured, "memory").sentence
    assert "accuracy is not judged" in gate(two[0], file).notes[-1]
    assert "accuracy is not judged" not in unmeasured.notes[-1]


def test_against_a_file_of_another_host_nothing_is_measured(gate: Gate, two: tuple[Path, Path], tmp_path: Path) -> None:
    result = gate(two[0], kept(tmp_path / "m.json", {"cpu": "another"}))
    assert (result.verdict, result.samples) == (Verdict.INCONCLUSIVE, 0)
    assert result.reason.startswith("latency cannot be judged: it was measured on another host (another cores, another")


def test_figures_of_another_gpu_or_power_mode_are_not_compared(
    gate: Gate, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"cpu": "this", "gpu": {"name": "Orin", "sm_count": 16, "power_mode": "MAXN"}}
    monkeypatch.setattr(stored, "fingerprint_for", lambda backends: here)
    there = {**here, "gpu": {"name": "Orin", "sm_count": 8, "power_mode": "MODE_30W"}}
    result = gate(two[0], kept(tmp_path / "m.json", there))
    assert (result.verdict, result.samples) == (Verdict.INCONCLUSIVE, 0)
    assert "on another host (another gpu power_mode, another gpu sm_count)" in result.reason
    before_gpus_were_told = gate(two[0], kept(tmp_path / "m.json", {"cpu": "this"}))
    assert "on another host (another gpu)" in before_gpus_were_told.reason


def test_a_baseline_that_is_missing_or_broken_is_refused(gate: Gate, two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.ewb: cannot be read"):
        gate(two[0], tmp_path / "gone.ewb")
    (tmp_path / "cut.ewb").write_bytes(two[1].read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"cut\.ewb: not an enginewright bundle"):
        gate(two[0], tmp_path / "cut.ewb")
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(MeasurementError, match=r"odd\.json: lacks the key 'format'"):
        gate(two[0], tmp_path / "odd.json")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Runs the command with a short warm-up, in this process."""
    monkeypatch.setattr(run, "run_gate", partial(run.run_gate, warm_up=QUICK))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def called(*arguments: object) -> Finished:
        code = main([str(argument) for argument in ("gate", *arguments)])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return called


def test_the_command_finds_a_slower_engine_in_real_processes(command: Callable[..., Finished], tmp_path: Path) -> None:
    new, old = bundle(tmp_path / "new.ewb", operators=2_000), bundle(tmp_path / "old.ewb")
    finished = command(new, "--against", old, "--json", "--output", tmp_path / "m.json", "--metrics", "latency,memory")
    assert finished.code == 1
    assert finished.json["verdict"] == "FAIL"
    assert finished.json["samples"] == 8 * 200
    assert finished.err.count("    baseline: ") == 8
    measurement = Measurement.from_bytes((tmp_path / "m.json").read_bytes())
    assert set(measurement.engines) == {"candidate", "baseline"}
    assert len(measurement.sessions[0].chunk_conditions["candidate"]["steal_ticks"]) == 40


def test_the_command_ends_inconclusive_where_the_time_is_too_short(
    command: Callable[..., Finished], two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    finished = command(two[0], "--against", two[1], "--max-seconds", "0.1")
    assert finished.code == 4
    assert finished.out.splitlines()[-1].startswith("verdict: INCONCLUSIVE: the time was over after 1 of 40 sessions")
    assert "::warning title=enginewright gate%3A INCONCLUSIVE::" in finished.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metrics", "latency,speed"), "'speed' is none of latency, accuracy, size, memory"),
        (("--max-seconds", "-1"), "a number above 0 was expected, got '-1'"),
        (("--profile", "loose"), "invalid choice: 'loose'"),
    ],
)
def test_wrong_options_are_refused(
    command: Callable[..., Finished], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("new.ewb", "--against", "old.ewb", *arguments)
    assert said in capsys.readouterr().err
