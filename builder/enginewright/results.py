"""What both packing stages make of the results of the steps before: the figures that a build prints, and its history."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from enginewright.report import CompressionArtifacts
from enginewright.running import RunningStep
from enginewright_runtime.budget import Finding, Verdict

__all__ = ["RESULT_FORMAT", "SIDES", "common_result", "compression_of", "json_input", "precision_of", "versions_of"]

RESULT_FORMAT = 4  # 1: first; 2: latency_evicted_ns, times_faster; 3: precision; 4: pending, verdict PENDING
SIDES = ("reference", "engine")


def json_input(step: RunningStep, name: str) -> Any:
    """An input of the step, parsed."""
    return json.loads(step.inputs[name].read_bytes())


def compression_of(step: RunningStep) -> CompressionArtifacts:
    """What the compress steps left for the report: the curves are those of the steps that trained, in their order."""
    precision, blocks, scales = (
        json_input(step, name) if name in step.inputs else None for name in ("precision", "blocks", "scales")
    )
    trained = [record.name for record in step.history if record.ingredients.stage == "recover"]
    curves = {name: json_input(step, f"curve-{number}") for number, name in enumerate(trained, 1)}
    return CompressionArtifacts(precision, blocks, scales, curves)


def common_result(
    verdict: Verdict,
    findings: Sequence[Finding],
    evaluations: Mapping[str, Any],
    layers: Mapping[str, Any],
    sizes: Mapping[str, int | None],
    precision: Any,
) -> dict[str, Any]:
    """What `enginewright build` prints, without the latencies: the verdict and both sides' figures."""
    return {
        "format": RESULT_FORMAT,
        "verdict": verdict.value,
        "findings": [finding.to_json() for finding in findings],
        "accuracy": {
            "metric": evaluations["engine"]["metric"],
            **{side: evaluations[side]["accuracy"] for side in SIDES},
        },
        "size_bytes": dict(sizes),
        "macs": {side: sum(layer["macs"] for layer in layers[side]["layers"]) for side in SIDES},
        "precision": precision_of(precision),
        "pending": None,
    }


def versions_of(step: RunningStep) -> dict[str, str]:
    """Every tool that any step of the chain depended on, with the version that it had then."""
    versions = {name: version for record in step.history for name, version in record.ingredients.tools.items()}
    versions["enginewright"] = importlib.metadata.version("enginewright")
    return dict(sorted(versions.items()))


def precision_of(table: Any) -> dict[str, Any] | None:
    """What was chosen, for how many layers; None where the recipe left no choice."""
    if table is None:
        return None
    kept, layers = len(table["kept_float"]), len(table["layers"])
    return {"chosen": table["chosen"], "time": table["time"], "float_layers": kept, "layers": layers}
