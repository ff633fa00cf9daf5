"""The report of a bundle, from nothing but the bundle: what its build stored, and what devices have made of it since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from enginewright.report.artifacts import latency_of
from enginewright.report.conditions import condition_facts, fingerprint_facts
from enginewright.report.data import (
    DeviceRun,
    Fact,
    Latency,
    Network,
    ReportData,
)
from enginewright.report.device_artifacts import device_run, measurement_of
from enginewright.report.engine_artifacts import engine_layers_of
from enginewright.report.stored import FILE_NAME, report_from_bytes
from enginewright_runtime.budget import Evidence, judge, overall, pending, worst
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.measurement import Measurement

__all__ = ["report_of_bundle"]

_NO_REPORT = f"this bundle holds no {FILE_NAME}: an older version packed it, and what its build did cannot be shown. Build it again"


def report_of_bundle(bundle: Bundle) -> ReportData:
    """Everything that the bundle tells. Raises BundleError or MeasurementError with the file and the place at fault."""
    found = [
        (entry, taken) for entry in bundle.manifest.engines if (taken := measurement_of(bundle, entry)) is not None
    ]
    built = next(((entry, taken) for entry, taken in found if "reference" in taken.engines), None)
    data = _stored(bundle) or _from_manifest(bundle, built)
    wanted = data.engine.int8_nodes
    if built is not None:
        entry, taken = built
        data = replace(
            data,
            latency=latency_of(taken.with_caches("warm")),
            latency_evicted=_evicted(bundle, entry),
            engine_layers=engine_layers_of(bundle, entry, wanted=wanted),
        )
    accuracy = _accuracy(bundle, data)
    devices = tuple(
        device_run(bundle, entry, taken, accuracy=accuracy, wanted=wanted)
        for entry, taken in found
        if "reference" not in taken.engines
    )
    return _with_devices(data, devices)


def _stored(bundle: Bundle) -> ReportData | None:
    if FILE_NAME not in bundle.contents:
        return None
    return report_from_bytes(bundle.read(FILE_NAME), source=f"{bundle.path}: {FILE_NAME}")


def _with_devices(data: ReportData, devices: tuple[DeviceRun, ...]) -> ReportData:
    """The verdict is that of the devices, the worst of them first."""
    return replace(data, devices=devices, verdict=worst(run.verdict for run in devices)) if devices else data


def _evicted(bundle: Bundle, entry: EngineEntry) -> Latency | None:
    name = f"measurements/{entry.fingerprint}.evicted.json"
    if name not in bundle.contents:
        return None
    return latency_of(Measurement.from_bytes(bundle.read(name), source=name).with_caches("evicted"))


def _accuracy(bundle: Bundle, data: ReportData) -> Mapping[str, float]:
    """The build's. The manifest's is the last device's, once one has evaluated its engine."""
    stored = {
        side: network.evaluation.accuracy
        for side, network in (("reference", data.reference), ("engine", data.engine))
        if network.evaluation is not None and network.evaluation.accuracy is not None
    }
    return stored if len(stored) == 2 else bundle.manifest.accuracy


def _from_manifest(bundle: Bundle, built: tuple[EngineEntry, Measurement] | None) -> ReportData:
    """What is known of a bundle that holds no report."""
    manifest = bundle.manifest
    nothing = Network(0, None, ())
    reference, engine = nothing, nothing
    accuracy = manifest.accuracy
    known = {"reference", "engine"} <= accuracy.keys()
    drop = accuracy["reference"] - accuracy["engine"] if known else None
    findings = judge(manifest.budget, Evidence(accuracy_drop=drop))
    if built is not None:
        entry, taken = built
        size_bytes = manifest.files[entry.path].size
        findings = judge(manifest.budget, evidence_of(manifest, taken, size_bytes=size_bytes))
        reference = Network(taken.engines["reference"].size_bytes, None, (), taken.peak_memory_bytes("reference"))
        engine = Network(size_bytes, None, (), taken.peak_memory_bytes("engine"))
    elif manifest.pending:
        findings = pending(findings)
    return ReportData(
        name=manifest.name,
        summary="",
        target=manifest.target,
        target_summary="",
        verdict=overall(findings),
        findings=findings,
        recipe=manifest.recipe,
        steps=(),
        reference=reference,
        engine=engine,
        latency=None,
        versions=tuple(Fact(name, version) for name, version in sorted(manifest.versions.items())),
        host=fingerprint_facts(manifest.host),
        conditions=condition_facts(built[1]) if built else (),
        warnings=(_NO_REPORT,),
    )
