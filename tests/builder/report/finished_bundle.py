"""Bundles as devices finish them, with measurements that nobody took: the latencies of the made-up builds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.builder.report.report_cases import latency
from tests.runtime.tiny_bundle import tiny_golden, tiny_manifest, tiny_model

from enginewright.report.data import ReportData
from enginewright.report.stored import FILE_NAME, report_to_bytes
from enginewright_runtime.bundle import Bundle, read_bundle, write_bundle
from enginewright_runtime.canonical import canonical_bytes
from enginewright_runtime.manifest import EngineEntry, PendingEngine
from enginewright_runtime.measurement import MeasuredEngine, Measurement, SessionRecord
from enginewright_runtime.tensorrt.engine_layers import EngineLayer, layers_to_json
from enginewright_runtime.tensorrt.gpu_time import GpuTimes
from enginewright_runtime.warm_up import WarmUp

ORIN = EngineEntry(
    "tensorrt-10.3.0-sm87-aarch64-orin",
    "tensorrt",
    "engines/tensorrt-10.3.0-sm87-aarch64-orin/engine",
    {"sizes": {"batch": [1, 1, 4]}},
    {"tensorrt": "10.3.0", "machine": "aarch64", "compute_capability": "8.7", "device": "Orin"},
)
NANO = replace(
    ORIN,
    fingerprint="tensorrt-10.3.0-sm87-aarch64-nano",
    path="engines/tensorrt-10.3.0-sm87-aarch64-nano/engine",
    requires={**ORIN.requires, "device": "Orin Nano"},
)
BUDGET = {"latency_p99_ms": 1.0, "accuracy_drop": 0.011}
_WARMED = WarmUp(count=100, elapsed_ns=2_000_000_000, settled=True, window_medians_ns=(500_000,))


def measured(*labels: str, engine_ms: float = 0.4, sessions: int = 6) -> Measurement:
    """Every label but "engine" is twice as slow."""
    found = latency(sessions=sessions, reference_ms=2 * engine_ms, engine_ms=engine_ms)
    taken = tuple(
        SessionRecord(
            samples_ns={name: one.engine_ns if name == "engine" else one.reference_ns for name in labels},
            cpu_ns=dict.fromkeys(labels, (1,)),
            warm_up=dict.fromkeys(labels, _WARMED),
            peak_rss_bytes={name: 100 << 20 if name == "engine" else 120 << 20 for name in labels},
            conditions_before={"load_average": [0.5]},
            conditions_after={"load_average": [0.7]},
        )
        for one in found.sessions
    )
    engines = {name: MeasuredEngine(sha256="a" * 64, size_bytes=7, backend="tensorrt", settings={}) for name in labels}
    protocol = replace(found.protocol, threads=dict.fromkeys(labels, 1))
    return Measurement(host={"machine": "aarch64", "cpu": "ARMv8"}, protocol=protocol, engines=engines, sessions=taken)


def gpu_times() -> GpuTimes:
    return GpuTimes((0,) * 10, (300_000,) * 10, (0,) * 10, (50_000,) * 10, transfers=False)


def told_by(
    entry: EngineEntry,
    measurement: Measurement,
    *,
    layers: Sequence[EngineLayer] = (),
    float16: Sequence[EngineLayer] = (),
    accuracy: float | None = None,
) -> dict[str, bytes]:
    """The files that a device adds for one engine, and those that `--device` adds where it evaluated it."""
    files = {entry.path: b"engine of " + entry.fingerprint.encode(), entry.measurement_path: measurement.to_bytes()}
    if layers:
        folder = f"engines/{entry.fingerprint}"
        files[f"{folder}/layers.json"] = canonical_bytes(layers_to_json(layers, runs=50))
        files[f"{folder}/float16-layers.json"] = canonical_bytes(layers_to_json(float16, runs=50))
        files[f"measurements/{entry.fingerprint}.gpu.json"] = canonical_bytes(gpu_times().to_json())
    if accuracy is not None:
        found: dict[str, Any] = {"format": 1, "metric": "top1", "samples": 50, "accuracy": accuracy, "confidence": 0.95}
        files[f"evaluations/{entry.fingerprint}.json"] = json.dumps(found).encode()
    return files


def bundle_of(
    path: Path,
    report: ReportData | None,
    files: Mapping[str, bytes],
    *engines: EngineEntry,
    accuracy: Mapping[str, float] | None = None,
    pending: bool = True,
) -> Bundle:
    """A bundle with what its build stored for the report, if anything, and with the files of its engines."""
    waiting = (PendingEngine("tensorrt", ORIN.settings, {"machine": "aarch64", "compute_capability": "8.7"}),)
    manifest = replace(
        tiny_manifest(),
        engines=engines,
        pending=waiting if pending else (),
        budget=BUDGET,
        accuracy=accuracy or {"reference": 0.95, "engine": 0.94},
    )
    stored = {} if report is None else {FILE_NAME: report_to_bytes(report)}
    common = {"model.onnx": tiny_model(), "golden.npz": tiny_golden().to_bytes()}
    write_bundle(path, manifest, {**common, **stored, **files})
    return read_bundle(path)
