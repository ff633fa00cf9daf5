"""From what a device wrote into a bundle to report data: parsed once, with errors that name the file and the place in it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from enginewright.report.artifacts import evaluation_from_json, latency_of
from enginewright.report.conditions import condition_facts, fingerprint_facts
from enginewright.report.data import DeviceRun, Evaluation
from enginewright.report.engine_artifacts import engine_layers_of
from enginewright.report.engine_data import GpuTiming
from enginewright_runtime.budget import judge
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.canonical import Json, strict_json
from enginewright_runtime.errors import BundleError
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.gpu import gpu_words
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.tensorrt.gpu_time import GpuTimes
from enginewright_runtime.unquantized import LABEL

__all__ = ["device_run", "measurement_of"]

_GPU_FORMAT = 1


def measurement_of(bundle: Bundle, entry: EngineEntry) -> Measurement | None:
    """What the bundle has of an engine's latency; None where it has nothing. Raises MeasurementError, BundleError."""
    if entry.measurement_path not in bundle.contents:
        return None
    found = Measurement.from_bytes(bundle.read(entry.measurement_path), source=entry.measurement_path)
    if "engine" not in found.engines:
        raise BundleError(f"{bundle.path}: {entry.measurement_path} has no samples of the engine")
    return found if found.sessions else None


def device_run(
    bundle: Bundle,
    entry: EngineEntry,
    measurement: Measurement,
    *,
    accuracy: Mapping[str, float],
    wanted: Sequence[str],
) -> DeviceRun:
    """One engine as its device measured it, its budgets judged again by the runtime's own rules.

    `accuracy` is the build's, of the reference and of the engine's twin; it counts where the device did not evaluate the
    engine itself. `wanted` are the nodes that the network asks int8 for. Raises BundleError that names file and place.
    """
    evaluation = _evaluation(bundle, entry)
    if evaluation is not None and evaluation.accuracy is not None:
        accuracy = {**accuracy, "engine": evaluation.accuracy}
    size_bytes = bundle.manifest.files[entry.path].size
    evidence = evidence_of(replace(bundle.manifest, accuracy=accuracy), measurement, size_bytes=size_bytes)
    latency = latency_of(measurement.with_caches("warm"), reference=LABEL)
    assert latency is not None  # `measurement_of` gives none without sessions
    return DeviceRun(
        fingerprint=entry.fingerprint,
        device=entry.requires.get("device") or str(measurement.host.get("cpu") or entry.fingerprint),
        gpu_words=gpu_words(measurement.host),
        findings=judge(bundle.manifest.budget, evidence),
        size_bytes=size_bytes,
        peak_memory_bytes=measurement.peak_memory_bytes("engine"),
        gpu_bytes=measurement.gpu_bytes("engine"),
        latency=latency,
        host=fingerprint_facts(measurement.host),
        conditions=condition_facts(measurement),
        settings=fingerprint_facts({**entry.requires, **entry.settings}),
        float16_peak_bytes=measurement.peak_memory_bytes(LABEL) if LABEL in measurement.engines else None,
        evaluation=evaluation,
        gpu=_gpu_timing(bundle, f"measurements/{entry.fingerprint}.gpu.json"),
        layers=engine_layers_of(bundle, entry, wanted=wanted),
    )


def _evaluation(bundle: Bundle, entry: EngineEntry) -> Evaluation | None:
    name = f"evaluations/{entry.fingerprint}.json"
    if name not in bundle.contents:
        return None
    return evaluation_from_json(_json(bundle, name), f"{bundle.path}: {name}", error=BundleError)


def _gpu_timing(bundle: Bundle, name: str) -> GpuTiming | None:
    if name not in bundle.contents:
        return None
    root = JsonField(_json(bundle, name), f"{bundle.path}: {name}", BundleError)
    if root.field("format").value != _GPU_FORMAT:
        raise root.field("format").refuse(f"must be {_GPU_FORMAT}")
    flags = root.field("flags")
    times = GpuTimes(
        in_ns=root.field("in_ns").integers(),
        compute_ns=root.field("compute_ns").integers(),
        out_ns=root.field("out_ns").integers(),
        enqueue_ns=root.field("enqueue_ns").integers(),
        transfers=flags.field("transfers").boolean(),
        cuda_graph=flags.field("cuda_graph").boolean(),
    )
    if not all((times.in_ns, times.compute_ns, times.out_ns, times.enqueue_ns)):
        raise root.refuse("must hold samples of each kind")
    return GpuTiming(
        samples=len(times.compute_ns),
        percentiles_ns=root.field("compute_percentiles_ns").numbers(),
        copies_in_ns=statistics.median(times.in_ns),
        copies_out_ns=statistics.median(times.out_ns),
        enqueue_ns=statistics.median(times.enqueue_ns),
        flags=tuple(_flag(name, flag) for name, flag in flags.mapping().items()),
        warnings=times.warnings(),
    )


def _flag(name: str, value: Json) -> str:
    """One flag of the method in words.

    >>> _flag("cuda_graph", False), _flag("warm_up_ms", 200)
    ('cuda graph no', 'warm up 200 ms')
    """
    words = name.removesuffix("_ms").replace("_", " ")
    if isinstance(value, bool):
        return f"{words} {'yes' if value else 'no'}"
    return f"{words} {value}{' ms' if name.endswith('_ms') else ''}"


def _json(bundle: Bundle, name: str) -> Json:
    try:
        return strict_json(bundle.read(name))
    except ValueError as error:
        raise BundleError(f"{bundle.path}: {name}: not valid JSON: {error}") from None
