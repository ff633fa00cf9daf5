"""What commands print, as golden texts: read them as the user would."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginewright.build import BuildResult, StepResult
from enginewright.freshness import Freshness
from enginewright.plan import Step
from enginewright.record import Artifact, Ingredients, Record
from enginewright.summary import build_json, build_table, plan_json, plan_table, why_text

GOLDEN = Path(__file__).parents[1] / "golden/summary"
JOB: Any = SimpleNamespace(recipe=SimpleNamespace(name="signs"), target=SimpleNamespace(name="cpu"))
SIGNS: dict[str, Any] = {
    "verdict": "PASS",
    "findings": [
        {"verdict": "PASS", "sentence": "accuracy_drop is 0.0037, within the budget of 0.01"},
        {"verdict": "PASS", "sentence": "latency_p99_ms is 1.31, within the budget of 4"},
    ],
    "accuracy": {"metric": "top1", "reference": 0.97123, "engine": 0.9675},
    "latency_ns": {
        "reference": {"p50": 2_850_000.0, "p99": 3_600_000.0},
        "engine": {"p50": 990_000.0, "p99": 1_310_000.0},
    },
    "latency_evicted_ns": {"reference": {"p50": 3_910_000.0}, "engine": {"p50": 1_180_000.0}},
    "times_faster": {"warm": 2.8788, "evicted": 3.3136},
    "precision": {"chosen": "mixed", "time": "measured", "float_layers": 3, "layers": 21},
    "pending": None,
    "size_bytes": {"reference": 4_300_000, "engine": 620_000},
    "macs": {"reference": 72_400_000, "engine": 36_300_000},
}
CHANGES: dict[str, dict[str, Any]] = {
    "pass": {},
    "fail": {
        "verdict": "FAIL",
        "findings": [
            {"verdict": "FAIL", "sentence": "size_mib is 0.591, beyond the budget of 0.5"},
            *SIGNS["findings"],
        ],
    },
    "inconclusive": {
        "verdict": "INCONCLUSIVE",
        "findings": [
            {"verdict": "INCONCLUSIVE", "sentence": "latency_p99_ms is 3.9, and the budget of 4 may be missed"}
        ],
    },
    "no_budget": {
        "findings": [],
        "precision": {"chosen": "float", "time": "measured", "float_layers": 21, "layers": 21},
    },
    "pending": {
        "verdict": "PENDING",
        "findings": [
            {"verdict": "PASS", "sentence": "accuracy_drop is 0.0037, within the budget of 0.01"},
            {"verdict": "PENDING", "sentence": "latency_p99_ms is pending: the device tells it"},
        ],
        "latency_ns": {side: {"p50": None, "p99": None} for side in ("reference", "engine")},
        "latency_evicted_ns": {side: {"p50": None} for side in ("reference", "engine")},
        "times_faster": {"warm": None, "evicted": None},
        "precision": {"chosen": "int8", "time": "modelled", "float_layers": 0, "layers": 21},
        "size_bytes": {"reference": None, "engine": None},
        "pending": {
            "reason": "TensorRT is not installed",
            "command": "enginewright-runtime compile signs-orin.ewb",
            "checked_by": "TensorRT-RTX 1.7.1, for compute capability 8.6: 18 int8 layers",
            "floor_ns": 12_345.6,
        },
    },
    "worse": {
        "accuracy": {"metric": "balanced_accuracy", "reference": 0.5, "engine": 0.625},
        "latency_ns": {"reference": {"p50": 20_000.0, "p99": None}, "engine": {"p50": 80_000.0, "p99": 90_000.0}},
        "latency_evicted_ns": {"reference": {"p50": None}, "engine": {"p50": 81_000.0}},
        "times_faster": {"warm": 0.25, "evicted": None},
        "precision": None,
        "pending": None,
        "size_bytes": {"reference": 1_500_000, "engine": 2_000_000},
        "macs": {"reference": 5_000_000, "engine": 5_000_000},
    },
}


def record(name: str, *, seconds: float = 1.25, warnings: tuple[str, ...] = ()) -> Record:
    outputs = {"checkpoint": Artifact("a" * 64, "checkpoint", 10)}
    return Record(name, Ingredients(name, 1, {"of": name}), outputs, seconds, {}, warnings)


def result(case: str) -> BuildResult:
    warned = record("recover", seconds=61.5, warnings=("no epoch was better", "the loss is flat"))
    steps = (
        StepResult("import", "reused", record("import")),
        StepResult("prune", "reused", record("prune")),
        StepResult("recover", "built", warned if case == "worse" else record("recover", seconds=61.5)),
    )
    deliveries = {
        name: Path(f"/project/dist/signs-cpu.{name}") for name in ("bundle", "report_html", "report_markdown")
    }
    return BuildResult(steps, {**SIGNS, **CHANGES[case]}, deliveries)


@pytest.mark.parametrize("case", CHANGES)
def test_a_build_ends_with_the_golden_table(case: str) -> None:
    assert build_table(JOB, result(case)) + "\n" == (GOLDEN / f"build_{case}.txt").read_text(encoding="utf-8")


def test_no_line_ends_in_spaces() -> None:
    lines = build_table(JOB, result("worse")).split("\n")
    assert lines == [line.rstrip() for line in lines]


def test_the_json_of_a_build_has_what_the_issue_lists_in_plain_numbers() -> None:
    content = json.loads(json.dumps(build_json(result("worse")), allow_nan=False))
    assert content == {
        "bundle": "/project/dist/signs-cpu.bundle",
        "report": "/project/dist/signs-cpu.report_html",
        "verdict": "PASS",
        "findings": SIGNS["findings"],
        "steps": [
            {"name": "import", "key": record("import").key, "status": "reused", "seconds": 1.25},
            {"name": "prune", "key": record("prune").key, "status": "reused", "seconds": 1.25},
            {"name": "recover", "key": record("recover").key, "status": "built", "seconds": 61.5},
        ],
        **{name: value for name, value in CHANGES["worse"].items() if name not in ("verdict", "findings")},
        "warnings": ["recover: no epoch was better", "recover: the loss is flat"],
    }


def found(name: str, *reasons: str, built: bool = False, waits: bool = False) -> Freshness:
    ingredients = None if waits else Ingredients(name, 1, {"of": name})
    return Freshness(Step(name, name, {}), ingredients, record(name) if built else None, reasons)


PLANS: dict[str, list[Freshness]] = {
    "fresh": [found("import", built=True), found("reference/evaluate", built=True)],
    "stale": [
        found("import", built=True),
        found("prune", "parameter macs changed: 0.4 -> 0.3", "file code/model.py changed: 0a1b -> 2c3d"),
        found("recover", "waits for prune", waits=True),
        found("compile", "it was never built"),
    ],
}


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_has_the_golden_table(case: str) -> None:
    assert plan_table(PLANS[case]) + "\n" == (GOLDEN / f"plan_{case}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", PLANS)
def test_why_has_the_golden_text_with_every_reason(case: str) -> None:
    assert why_text(PLANS[case]) + "\n" == (GOLDEN / f"why_{case}.txt").read_text(encoding="utf-8")


def test_the_json_of_a_plan_has_a_key_for_all_but_the_steps_that_wait() -> None:
    steps = json.loads(json.dumps(plan_json(PLANS["stale"])))["steps"]
    assert [(step["name"], step["status"], step["key"] is not None) for step in steps] == [
        ("import", "reused", True),
        ("prune", "stale", True),
        ("recover", "waits", False),
        ("compile", "stale", True),
    ]
    assert steps[1]["reasons"] == ["parameter macs changed: 0.4 -> 0.3", "file code/model.py changed: 0a1b -> 2c3d"]
