"""When the gate goes on and when it stops, on made-up sessions."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.builder.gate.gate_cases import DeafWatch, MadeUpMeasuring

from enginewright.gate import paired
from enginewright.gate.paired import Pairs, measure_pairs
from enginewright_runtime.budget import Verdict
from enginewright_runtime.measure import EngineToMeasure
from enginewright_runtime.sequential import PROFILES, decide

ENGINE = EngineToMeasure(Path("engine"), "onnxruntime", {})


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> type[MadeUpMeasuring]:
    """Sessions that are made up; its ratios may be set."""
    measuring = type("Measuring", (MadeUpMeasuring,), {})
    monkeypatch.setattr(paired, "Measuring", measuring)
    return measuring


def measured(
    made_up: type[MadeUpMeasuring], *labels: str, max_seconds: float | None = None, watch: DeafWatch | None = None
) -> Pairs:
    """A gate whose sessions take ten seconds each by its clock."""
    made_up.taken = 0
    return measure_pairs(
        ENGINE,
        dict.fromkeys(labels, ENGINE),
        {},
        PROFILES["strict"],
        watch=watch or DeafWatch(),
        max_seconds=max_seconds,
        clock=lambda: 10.0 * made_up.taken,
    )


def test_a_slower_candidate_fails_after_eight_sessions(made_up: type[MadeUpMeasuring]) -> None:
    made_up.ratios = {"candidate": 1.1}
    watch = DeafWatch()
    pairs = measured(made_up, "baseline", watch=watch)
    assert pairs.sides["baseline"].verdict is Verdict.FAIL
    assert len(pairs.measurement.sessions) == len(watch.heard) == 8
    assert pairs.stopped == ""


def test_an_equal_candidate_passes(made_up: type[MadeUpMeasuring]) -> None:
    made_up.spread = 0.002
    pairs = measured(made_up, "baseline")
    assert pairs.sides["baseline"].verdict is Verdict.PASS
    assert 8 <= len(pairs.measurement.sessions) <= 40


def test_a_machine_that_hides_everything_ends_inconclusive_after_forty_sessions(made_up: type[MadeUpMeasuring]) -> None:
    made_up.ratios, made_up.spread = {"candidate": 1.03}, 0.2
    pairs = measured(made_up, "baseline")
    assert pairs.sides["baseline"].verdict is Verdict.INCONCLUSIVE
    assert len(pairs.measurement.sessions) == 40
    assert pairs.stopped == "40 sessions could not decide"


def test_a_baseline_that_fails_ends_the_gate_against_all(made_up: type[MadeUpMeasuring]) -> None:
    made_up.ratios = {"baseline 1": 1.0, "baseline 2": 0.9}
    pairs = measured(made_up, "baseline 1", "baseline 2")
    assert pairs.sides["baseline 2"].verdict is Verdict.FAIL
    assert pairs.sides["baseline 1"].verdict is not Verdict.FAIL
    assert len(pairs.measurement.sessions) == 8


def test_a_baseline_that_is_decided_stays_so_while_the_others_go_on(made_up: type[MadeUpMeasuring]) -> None:
    made_up.ratios, made_up.spread = {"baseline 1": 1.3, "baseline 2": 0.99}, 0.012
    pairs = measured(made_up, "baseline 1", "baseline 2")
    first, second = (pairs.sides[f"baseline {number}"] for number in (1, 2))
    assert first.verdict is Verdict.PASS
    assert len(first.sessions) < len(second.sessions) == len(pairs.measurement.sessions)


def test_no_session_begins_that_would_end_after_the_time(made_up: type[MadeUpMeasuring]) -> None:
    pairs = measured(made_up, "baseline", max_seconds=65.0)
    assert pairs.sides["baseline"].verdict is None
    assert len(pairs.measurement.sessions) == 6
    assert pairs.stopped == "the time was over after 6 of 40 sessions"


def test_the_risk_of_a_false_alarm_is_split_among_the_baselines(made_up: type[MadeUpMeasuring]) -> None:
    pairs = measured(made_up, "baseline 1", "baseline 2", max_seconds=80.0)
    side = pairs.sides["baseline 1"]
    assert side.decision == decide(side.sessions, PROFILES["strict"], comparisons=2)
    assert side.decision != decide(side.sessions, PROFILES["strict"])


def test_a_verdict_in_the_last_second_counts(made_up: type[MadeUpMeasuring]) -> None:
    made_up.ratios = {"candidate": 1.1}
    full = measured(made_up, "baseline", max_seconds=80.0)
    assert full.sides["baseline"].verdict is Verdict.FAIL
    assert full.stopped == ""


def test_a_machine_on_which_engines_never_get_steady_is_called_unfit(made_up: type[MadeUpMeasuring]) -> None:
    made_up.settled = False
    pairs = measured(made_up, "baseline")
    assert pairs.sides["baseline"].verdict is None
    assert len(pairs.measurement.sessions) == 5
    assert pairs.stopped == (
        "this machine is unfit: 100% of the rounds had to be dropped, and 20% may be "
        "(the baseline never became steady while warming up)"
    )


def test_the_gpu_that_the_engines_run_on_is_watched(
    made_up: type[MadeUpMeasuring], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(paired, "watched_gpu", lambda backends: asked.append(list(backends)))
    measured(made_up, "baseline")
    assert asked == [["onnxruntime", "onnxruntime"]]
