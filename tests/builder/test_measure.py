"""The measure stage: warm caches for the budgets, evicted ones beside them, and never the two in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.builder.lone_stage import LoneStage, Ran
from tests.runtime.tiny_bundle import SETTINGS, tiny_golden, tiny_model

from enginewright.errors import StepFailed
from enginewright.stages import measure
from enginewright_runtime.backends import backend
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.host import fingerprint, fingerprint_id
from enginewright_runtime.measure import WarmUpRule
from enginewright_runtime.measurement import Measurement

QUICK = WarmUpRule(least_ns=0, least_count=5, window=5, steady_share=0.5, steady_times=1, cap_ns=1_000_000_000)


def run_measure(stage: LoneStage, folder: Path, *, budget: dict[str, float], **changes: object) -> Ran:
    """The tiny network as its own reference, in few and short sessions."""
    files = {"engine": backend("onnxruntime").compile(tiny_model(), SETTINGS), "golden": tiny_golden().to_bytes()}
    files["entry"] = json.dumps({"backend": "onnxruntime", "settings": SETTINGS}).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    paths = {name: folder / name for name in ("engine", "entry", "golden")}
    parameters = {
        "host": fingerprint_id(fingerprint()),
        "looks": [2, 3],
        "rounds": 2,
        "chunk": 5,
        "evicted": {"sessions": 2, "samples": 4},
        "budget": budget,
        **changes,
    }
    reference = {"reference_engine": paths["engine"], "reference_entry": paths["entry"]}
    return stage.run("measure", parameters, **paths, **reference)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little warming up with evicted caches; with warm ones it is half a second."""
    monkeypatch.setattr(measure, "_SHORT_WARM_UP", QUICK)


@pytest.mark.usefixtures("quick")
def test_warm_and_evicted_caches_are_measured_apart(lone: LoneStage, tmp_path: Path) -> None:
    ran = run_measure(lone, tmp_path, budget={"memory_mib": 10_000.0})
    warm = Measurement.from_bytes(ran.output("measurement").read_bytes()).with_caches("warm")
    evicted = Measurement.from_bytes(ran.output("measurement_evicted").read_bytes()).with_caches("evicted")
    assert (warm.protocol.sessions, warm.protocol.rounds, warm.protocol.chunk) == (2, 2, 5)
    assert (evicted.protocol.sessions, evicted.protocol.rounds, evicted.protocol.chunk) == (2, 4, 1)
    assert warm.protocol.interleaved
    assert evicted.protocol.interleaved
    assert warm.engines == evicted.engines
    assert ran.outcome.provisional == ""
    assert ran.outcome.summary["samples"] == 20
    assert ran.outcome.summary["p50_ms"] < ran.outcome.summary["p50_evicted_ms"]
    notes = [event["note"] for event in ran.events if event["event"] == "progress"]
    assert notes == ["measuring"] * 2 + ["measuring with evicted caches"] * 3


@pytest.mark.usefixtures("quick")
def test_more_sessions_with_warm_caches_alone_follow_where_the_budget_stays_open(
    lone: LoneStage, tmp_path: Path
) -> None:
    ran = run_measure(lone, tmp_path, budget={"latency_p99_ms": 1000.0})
    assert len(Measurement.from_bytes(ran.output("measurement").read_bytes()).sessions) == 3
    assert len(Measurement.from_bytes(ran.output("measurement_evicted").read_bytes()).sessions) == 2
    assert "could not decide" in ran.outcome.provisional


def test_a_plan_of_another_host_is_not_measured_here(lone: LoneStage, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="planned on another host"):
        run_measure(lone, tmp_path, budget={}, host="0" * 64)


@pytest.mark.usefixtures("quick")
def test_packing_refuses_measurements_in_each_other_s_place(lone: LoneStage, tmp_path: Path) -> None:
    ran = run_measure(lone, tmp_path, budget={}, looks=[1], evicted={"sessions": 1, "samples": 5})
    swapped = {
        "measurement": ran.output("measurement_evicted"),
        "measurement_evicted": ran.output("measurement"),
    }
    with pytest.raises(MeasurementError, match="with warm caches was expected, and this is evicted"):
        lone.run("pack", {}, **swapped)
