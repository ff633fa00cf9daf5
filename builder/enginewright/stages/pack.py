"""Pack: everything that was made and measured becomes one verified bundle and its report, and the budgets get their
verdict.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from enginewright.errors import StepFailed
from enginewright.report import (
    CompressionArtifacts,
    NetworkArtifacts,
    render_html,
    render_markdown,
    report_data_from_artifacts,
)
from enginewright.running import Outcome, RunningStep
from enginewright_runtime import open as open_bundle
from enginewright_runtime.backends import backend
from enginewright_runtime.budget import Evidence, Finding, judge, overall
from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.canonical import sha256_file
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.golden import read_golden
from enginewright_runtime.manifest import BuildStep, EngineEntry, Manifest
from enginewright_runtime.measurement import Measurement, pooled_ns
from enginewright_runtime.stats import percentile

__all__ = ["run"]

RESULT_FORMAT = 3  # 1: first; 2: latency_evicted_ns, times_faster; 3: precision
_SIDES = ("reference", "engine")


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    measurement = _measurement(step, "measurement").with_caches("warm")
    evicted = _measurement(step, "measurement_evicted").with_caches("evicted")
    evaluations = {"reference": _json(step, "reference_evaluation"), "engine": _json(step, "evaluation")}
    layers = {"reference": _json(step, "reference_layers"), "engine": _json(step, "layers")}
    sizes = {
        "reference": step.inputs["reference_engine"].stat().st_size,
        "engine": step.inputs["engine"].stat().st_size,
    }
    findings = judge(
        parameters["budget"],
        Evidence(
            sessions_ns=measurement.sessions_ns("engine"),
            looks=len(parameters["looks"]),
            size_bytes=sizes["engine"],
            peak_memory_bytes=measurement.peak_rss_bytes("engine"),
            accuracy_drop=evaluations["reference"]["accuracy"] - evaluations["engine"]["accuracy"],
        ),
    )
    compression = _compression(step)
    result = {
        **_result(findings, evaluations, layers, sizes),
        **_latencies(measurement, evicted),
        "precision": _precision(compression.precision),
    }
    report = report_data_from_artifacts(
        name=parameters["name"],
        summary=parameters["summary"],
        target=parameters["target"],
        target_summary=parameters["target_summary"],
        recipe=parameters["recipe"],
        findings=findings,
        steps=step.history,
        versions=_versions(step),
        measurement=measurement,
        measurement_evicted=evicted,
        reference=NetworkArtifacts(sizes["reference"], evaluations["reference"], layers["reference"]),
        engine=NetworkArtifacts(sizes["engine"], evaluations["engine"], layers["engine"]),
        compression=compression,
    )
    page = render_html(report)
    step.output("report_html").write_text(page, encoding="utf-8")
    step.output("report_markdown").write_text(render_markdown(report), encoding="utf-8")
    step.output("result").write_text(json.dumps(result))
    _write_bundle(step, measurement, evicted, result, page)
    _check_bundle(step)
    return Outcome({"verdict": result["verdict"], "bytes": step.output("bundle").stat().st_size})


def _json(step: RunningStep, name: str) -> Any:
    return json.loads(step.inputs[name].read_bytes())


def _measurement(step: RunningStep, name: str) -> Measurement:
    return Measurement.from_bytes(step.inputs[name].read_bytes(), source=name)


def _compression(step: RunningStep) -> CompressionArtifacts:
    """What the compress steps left for the report: the curves are those of the steps that trained, in their order."""
    precision, blocks, scales = (
        _json(step, name) if name in step.inputs else None for name in ("precision", "blocks", "scales")
    )
    trained = [record.name for record in step.history if record.ingredients.stage == "recover"]
    curves = {name: _json(step, f"curve-{number}") for number, name in enumerate(trained, 1)}
    return CompressionArtifacts(precision, blocks, scales, curves, _frontier(step))


def _frontier(step: RunningStep) -> Any:
    """What benchmarks/frontier.py left of this float engine, or None."""
    if "frontier" not in step.inputs:
        return None
    frontier = _json(step, "frontier")
    if frontier.get("reference_sha256") != sha256_file(step.inputs["reference_engine"]):
        step.say("the frontier in dist/ is of another float engine, so the report leaves it out")
        return None
    return frontier


def _precision(table: Any) -> dict[str, Any] | None:
    """What was chosen, for how many layers; None where the recipe left no choice."""
    if table is None:
        return None
    kept, layers = len(table["kept_float"]), len(table["layers"])
    return {"chosen": table["chosen"], "time": table["time"], "float_layers": kept, "layers": layers}


def _result(
    findings: Sequence[Finding],
    evaluations: Mapping[str, Any],
    layers: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """What `enginewright build` prints: the verdict and both sides' figures."""
    return {
        "format": RESULT_FORMAT,
        "verdict": overall(findings).value,
        "findings": [finding.to_json() for finding in findings],
        "accuracy": {
            "metric": evaluations["engine"]["metric"],
            **{side: evaluations[side]["accuracy"] for side in _SIDES},
        },
        "size_bytes": dict(sizes),
        "macs": {side: sum(layer["macs"] for layer in layers[side]["layers"]) for side in _SIDES},
    }


def _latencies(measurement: Measurement, evicted: Measurement) -> dict[str, Any]:
    """With warm caches p50 and p99; with evicted ones, of which there are fewer samples, p50; and how many times faster
    the engine is by each p50.
    """
    warm_ns = {side: pooled_ns(side, measurement) for side in _SIDES}
    evicted_ns = {side: pooled_ns(side, evicted) for side in _SIDES}
    return {
        "latency_ns": {
            side: {f"p{percent}": _percentile(warm_ns[side], percent) for percent in (50, 99)} for side in _SIDES
        },
        "latency_evicted_ns": {side: {"p50": _percentile(evicted_ns[side], 50)} for side in _SIDES},
        "times_faster": {"warm": _times_faster(warm_ns), "evicted": _times_faster(evicted_ns)},
    }


def _times_faster(samples_ns: Mapping[str, Sequence[int]]) -> float | None:
    reference, engine = (_percentile(samples_ns[side], 50) for side in _SIDES)
    return reference / engine if reference and engine else None


def _percentile(samples: Sequence[int], percent: float) -> float | None:
    """None where the samples cannot carry it: what was not measured is not printed."""
    try:
        return percentile(samples, percent)
    except NotEnoughSamples:
        return None


def _versions(step: RunningStep) -> dict[str, str]:
    """Every tool that any step of the chain depended on, with the version that it had then."""
    versions = {name: version for record in step.history for name, version in record.ingredients.tools.items()}
    versions["enginewright"] = importlib.metadata.version("enginewright")
    return dict(sorted(versions.items()))


def _write_bundle(
    step: RunningStep, measurement: Measurement, evicted: Measurement, result: Mapping[str, Any], page: str
) -> None:
    parameters = step.parameters
    engine = step.inputs["engine"].read_bytes()
    described = _json(step, "entry")
    entry = EngineEntry(**described, path=f"engines/{described['fingerprint']}/engine")
    opened = backend(entry.backend).open(engine, entry.settings)
    manifest = Manifest(
        name=parameters["name"],
        target=parameters["target"],
        inputs=opened.inputs,
        outputs=opened.outputs,
        budget=parameters["budget"],
        accuracy={side: result["accuracy"][side] for side in _SIDES},
        host=measurement.host,
        versions=_versions(step),
        engines=(entry,),
        recipe=parameters["recipe"],
        steps=tuple(BuildStep(record.name, record.key) for record in step.history),
        sequence=parameters["sequence"],
    )
    opened.close()
    write_bundle(
        step.output("bundle"),
        manifest,
        {
            "model.onnx": step.inputs["network"].read_bytes(),
            entry.path: engine,
            "golden.npz": step.inputs["golden"].read_bytes(),
            f"measurements/{entry.fingerprint}.json": measurement.to_bytes(),
            f"measurements/{entry.fingerprint}.evicted.json": evicted.to_bytes(),
            "report.html": page.encode(),
        },
    )


def _check_bundle(step: RunningStep) -> None:
    """Open what was packed as a vehicle would, and run its golden inputs."""
    path = step.output("bundle")
    golden = read_golden(read_bundle(path))
    with open_bundle(path) as session:
        agreements = golden.compare(session.run(golden.inputs))
    for agreement in agreements:
        if not agreement.agrees:
            raise StepFailed(
                f"the packed engine gives '{agreement.name}' off by {agreement.largest_difference:.3g}, "
                f"more than {agreement.tolerance:.3g}: it is not the engine that was evaluated"
            )
