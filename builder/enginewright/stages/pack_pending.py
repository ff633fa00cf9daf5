"""Pack an engine that runs elsewhere: a complete and verified bundle, all that could be proven here, and the one command
that finishes it on the device.

The accuracy is the twin's: the very graph that ships, under ONNX Runtime in float arithmetic with its Q/DQ pairs as
written. No latency, memory or size of the device is given, because none was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from enginewright.errors import StepFailed
from enginewright.graph.calibration_cache import calibration_cache
from enginewright.graph.ranges import Scales
from enginewright.report import NetworkArtifacts, render_html, render_markdown, report_data_from_artifacts
from enginewright.report.data import FloorRow, Pending
from enginewright.report.stored import FILE_NAME, PAGE_NAME, report_to_bytes
from enginewright.results import SIDES, common_result, compression_of, json_input, versions_of
from enginewright.roofline import Rates, floors, floors_to_json
from enginewright.running import Outcome, RunningStep
from enginewright_runtime import host
from enginewright_runtime.backends import OpenEngine, backend
from enginewright_runtime.budget import Evidence, Verdict, judge, overall, pending
from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.finishing import CACHE_NAME, CALIBRATED_NAME
from enginewright_runtime.golden import read_golden
from enginewright_runtime.manifest import BuildStep, EngineEntry, Manifest, PendingEngine
from enginewright_runtime.unquantized import UNQUANTIZED_NAME

__all__ = ["run"]


# Files of the bundle that not every target and recipe has, and the inputs that they come from.
_OPTIONAL: Mapping[str, str] = {
    "model.float16.onnx": "half",
    UNQUANTIZED_NAME: "unquantized",
    CALIBRATED_NAME: "calibrated",
    "structure.json": "structure",
}


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    evaluations, layers = (
        {"reference": json_input(step, f"reference_{name}"), "engine": json_input(step, name)}
        for name in ("evaluation", "layers")
    )
    size = step.inputs["engine"].stat().st_size if "engine" in step.inputs else None
    drop = evaluations["reference"]["accuracy"] - evaluations["engine"]["accuracy"]
    findings = pending(judge(parameters["budget"], Evidence(size_bytes=size, accuracy_drop=drop)))
    verdict = Verdict.FAIL if overall(findings) is Verdict.FAIL else Verdict.PENDING
    floor_table = floors_to_json(floors(layers["engine"]["layers"], Rates(**parameters["rates"])))
    waiting = _pending(step, floor_table)
    compression = compression_of(step)
    networks = {side: NetworkArtifacts(0, evaluations[side], layers[side]) for side in SIDES}
    report = report_data_from_artifacts(
        **{key: parameters[key] for key in ("name", "summary", "target", "target_summary", "recipe")},
        findings=findings,
        steps=step.history,
        versions=versions_of(step),
        measurement=None,
        reference=networks["reference"],
        engine=networks["engine"],
        compression=compression,
        pending=waiting,
    )
    page = render_html(report)
    step.output("report_html").write_text(page, encoding="utf-8")
    step.output("report_markdown").write_text(render_markdown(report), encoding="utf-8")
    sizes = {"reference": None, "engine": size}
    result = {
        **common_result(verdict, findings, evaluations, layers, sizes, compression.precision),
        **_nothing_measured(),
        "pending": {
            "reason": waiting.reason,
            "command": waiting.command,
            "checked_by": waiting.checked_by,
            "floor_ns": floor_table["total_floor_ns"],
        },
    }
    step.output("result").write_text(json.dumps(result))
    told = {FILE_NAME: report_to_bytes(report), PAGE_NAME: page.encode()}
    _write_bundle(step, evaluations, floor_table, told)
    _check_bundle(step)
    return Outcome({"verdict": verdict.value, "bytes": step.output("bundle").stat().st_size})


def _pending(step: RunningStep, floor_table: Mapping[str, Any]) -> Pending:
    parameters = step.parameters
    structure = json_input(step, "structure") if "structure" in step.inputs else None
    checked = ""
    if structure is not None:
        count = len(structure["int8_layers"])
        checked = (
            f"{structure['library']}, for compute capability {structure['compute_capability']}: {count} int8 layers"
        )
    return Pending(
        reason=parameters["reason"],
        command=f"enginewright-runtime compile {parameters['name']}-{parameters['target']}.ewb",
        compiled="engine" in step.inputs,
        power_mode=parameters["power_mode"],
        checked_by=checked,
        not_int8=tuple(structure["not_int8"]) if structure else (),
        floors=tuple(
            FloorRow(row["name"], row["precision"], row["compute_floor_ns"], row["memory_floor_ns"], row["bound"])
            for row in floor_table["layers"]
        ),
        total_floor_ns=floor_table["total_floor_ns"],
    )


def _nothing_measured() -> dict[str, Any]:
    return {
        "latency_ns": {side: {"p50": None, "p99": None} for side in SIDES},
        "latency_evicted_ns": {side: {"p50": None} for side in SIDES},
        "times_faster": {"warm": None, "evicted": None},
    }


def _twin(step: RunningStep) -> OpenEngine:
    entry = json_input(step, "twin_entry")
    return backend(entry["backend"]).open(step.inputs["twin"].read_bytes(), entry["settings"])


def _write_bundle(
    step: RunningStep, evaluations: Mapping[str, Any], floor_table: Mapping[str, Any], told: Mapping[str, bytes]
) -> None:
    """`told` are the files of the report."""
    parameters = step.parameters
    files = {
        **told,
        "model.onnx": step.inputs["network"].read_bytes(),
        "golden.npz": step.inputs["golden"].read_bytes(),
        "floors.json": json.dumps(floor_table).encode(),
    }
    for name, artifact in _OPTIONAL.items():
        if artifact in step.inputs:
            files[name] = step.inputs[artifact].read_bytes()
    if parameters["calibration_cache_for"] is not None and "scales" in step.inputs:
        scales = Scales.from_json(json_input(step, "scales"))
        cache = calibration_cache(scales, tensorrt=parameters["calibration_cache_for"])
        files[CACHE_NAME] = cache.encode()
    engines: tuple[EngineEntry, ...] = ()
    if "engine" in step.inputs:
        described = json_input(step, "entry")
        entry = EngineEntry(**described, path=f"engines/{described['fingerprint']}/engine")
        engines, files[entry.path] = (entry,), step.inputs["engine"].read_bytes()
    with closing(_twin(step)) as twin:
        inputs, outputs = twin.inputs, twin.outputs
    manifest = Manifest(
        name=parameters["name"],
        target=parameters["target"],
        inputs=inputs,
        outputs=outputs,
        budget=parameters["budget"],
        accuracy={side: evaluations[side]["accuracy"] for side in SIDES},
        host=host.fingerprint(),
        versions=versions_of(step),
        engines=engines,
        pending=(PendingEngine(parameters["backend"], parameters["settings"], parameters["requires"]),),
        recipe=parameters["recipe"],
        steps=tuple(BuildStep(record.name, record.key) for record in step.history),
        sequence=parameters["sequence"],
    )
    write_bundle(step.output("bundle"), manifest, files)


def _check_bundle(step: RunningStep) -> None:
    """Read what was packed as the device will, and see that the twin gives its golden outputs."""
    golden = read_golden(read_bundle(step.output("bundle")))
    with closing(_twin(step)) as twin:
        agreements = golden.compare(twin.run(golden.inputs))
    for agreement in agreements:
        if not agreement.agrees:
            raise StepFailed(
                f"the twin gives '{agreement.name}' off by {agreement.largest_difference:.3g}, more than "
                f"{agreement.tolerance:.3g}: the bundle does not hold what was evaluated"
            )
