"""Pack: everything that was made and measured becomes one verified bundle and its report, and the budgets get their
verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from enginewright.errors import StepFailed
from enginewright.report import (
    CompressionArtifacts,
    NetworkArtifacts,
    ReportData,
    render_html,
    render_markdown,
    report_data_from_artifacts,
)
from enginewright.report.engine_artifacts import engine_layers
from enginewright.report.stored import FILE_NAME, PAGE_NAME, report_to_bytes
from enginewright.results import SIDES, common_result, compression_of, json_input, versions_of
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


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    measurement = _measurement(step, "measurement").with_caches("warm")
    evicted = _measurement(step, "measurement_evicted").with_caches("evicted")
    evaluations = {"reference": json_input(step, "reference_evaluation"), "engine": json_input(step, "evaluation")}
    layers = {"reference": json_input(step, "reference_layers"), "engine": json_input(step, "layers")}
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
            peak_memory_bytes=measurement.peak_memory_bytes("engine"),
            accuracy_drop=evaluations["reference"]["accuracy"] - evaluations["engine"]["accuracy"],
        ),
    )
    compression = replace(compression_of(step), frontier=_frontier(step))
    result = {
        **common_result(overall(findings), findings, evaluations, layers, sizes, compression.precision),
        **_latencies(measurement, evicted),
    }
    report = _report(step, findings, evaluations, layers, sizes, compression)
    page = render_html(report)
    step.output("report_html").write_text(page, encoding="utf-8")
    step.output("report_markdown").write_text(render_markdown(report), encoding="utf-8")
    step.output("result").write_text(json.dumps(result))
    told = {FILE_NAME: report_to_bytes(report), PAGE_NAME: page.encode()}
    if report.engine_layers is not None:
        told[f"engines/{json_input(step, 'entry')['fingerprint']}/layers.json"] = step.inputs[
            "engine_layers"
        ].read_bytes()
    _write_bundle(step, measurement, evicted, result, told)
    _check_bundle(step)
    return Outcome({"verdict": result["verdict"], "bytes": step.output("bundle").stat().st_size})


def _report(
    step: RunningStep,
    findings: Sequence[Finding],
    evaluations: Mapping[str, Any],
    layers: Mapping[str, Any],
    sizes: Mapping[str, int],
    compression: CompressionArtifacts,
) -> ReportData:
    parameters = step.parameters
    networks = {side: NetworkArtifacts(sizes[side], evaluations[side], layers[side]) for side in SIDES}
    report = report_data_from_artifacts(
        **{key: parameters[key] for key in ("name", "summary", "target", "target_summary", "recipe")},
        findings=findings,
        steps=step.history,
        versions=versions_of(step),
        measurement=_measurement(step, "measurement"),
        measurement_evicted=_measurement(step, "measurement_evicted"),
        reference=networks["reference"],
        engine=networks["engine"],
        compression=compression,
    )
    stored, network = (step.inputs[name].read_bytes() for name in ("engine_layers", "network"))
    settings = json_input(step, "entry")["settings"]
    return replace(report, engine_layers=engine_layers(stored, network, settings, wanted=report.engine.int8_nodes))


def _measurement(step: RunningStep, name: str) -> Measurement:
    return Measurement.from_bytes(step.inputs[name].read_bytes(), source=name)


def _frontier(step: RunningStep) -> Any:
    """What benchmarks/frontier.py left of this float engine, or None."""
    if "frontier" not in step.inputs:
        return None
    frontier = json_input(step, "frontier")
    if frontier.get("reference_sha256") != sha256_file(step.inputs["reference_engine"]):
        step.say("the frontier in dist/ is of another float engine, so the report leaves it out")
        return None
    return frontier


def _latencies(measurement: Measurement, evicted: Measurement) -> dict[str, Any]:
    """With warm caches p50 and p99; with evicted ones, of which there are fewer samples, p50; and how many times faster
    the engine is by each p50.
    """
    warm_ns = {side: pooled_ns(side, measurement) for side in SIDES}
    evicted_ns = {side: pooled_ns(side, evicted) for side in SIDES}
    return {
        "latency_ns": {
            side: {f"p{percent}": _percentile(warm_ns[side], percent) for percent in (50, 99)} for side in SIDES
        },
        "latency_evicted_ns": {side: {"p50": _percentile(evicted_ns[side], 50)} for side in SIDES},
        "times_faster": {"warm": _times_faster(warm_ns), "evicted": _times_faster(evicted_ns)},
    }


def _times_faster(samples_ns: Mapping[str, Sequence[int]]) -> float | None:
    reference, engine = (_percentile(samples_ns[side], 50) for side in SIDES)
    return reference / engine if reference and engine else None


def _percentile(samples: Sequence[int], percent: float) -> float | None:
    """None where the samples cannot carry it: what was not measured is not printed."""
    try:
        return percentile(samples, percent)
    except NotEnoughSamples:
        return None


def _write_bundle(
    step: RunningStep,
    measurement: Measurement,
    evicted: Measurement,
    result: Mapping[str, Any],
    told: Mapping[str, bytes],
) -> None:
    """`told` are the files of the report, and what it reads besides."""
    parameters = step.parameters
    engine = step.inputs["engine"].read_bytes()
    described = json_input(step, "entry")
    entry = EngineEntry(**described, path=f"engines/{described['fingerprint']}/engine")
    opened = backend(entry.backend).open(engine, entry.settings)
    manifest = Manifest(
        name=parameters["name"],
        target=parameters["target"],
        inputs=opened.inputs,
        outputs=opened.outputs,
        budget=parameters["budget"],
        accuracy={side: result["accuracy"][side] for side in SIDES},
        host=measurement.host,
        versions=versions_of(step),
        engines=(entry,),
        recipe=parameters["recipe"],
        steps=tuple(BuildStep(record.name, record.key) for record in step.history),
        sequence=parameters["sequence"],
    )
    opened.close()
    files = {
        **told,
        "model.onnx": step.inputs["network"].read_bytes(),
        entry.path: engine,
        "golden.npz": step.inputs["golden"].read_bytes(),
        entry.measurement_path: measurement.to_bytes(),
        f"measurements/{entry.fingerprint}.evicted.json": evicted.to_bytes(),
    }
    write_bundle(step.output("bundle"), manifest, files)


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
