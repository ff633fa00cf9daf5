"""Finishing a bundle on its device: the engine that is pending is compiled from the bundle's model, checked on the golden
inputs, measured, and written back into the bundle.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from enginewright_runtime.backends import Array, Backend, OpenEngine, backend
from enginewright_runtime.budget import Finding, judge
from enginewright_runtime.bundle import Bundle, write_bundle
from enginewright_runtime.canonical import canonical_bytes
from enginewright_runtime.device_needs import fit
from enginewright_runtime.errors import BundleError, EnginewrightError, NoEngineFits
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.golden import OutputAgreement, one_sample, read_golden
from enginewright_runtime.manifest import EngineEntry, Manifest, PendingEngine
from enginewright_runtime.measure import EngineToMeasure, Measurement, measure
from enginewright_runtime.tensorrt.engine_layers import EngineLayer, layers_to_json

if TYPE_CHECKING:
    from enginewright_runtime.tensorrt.gpu_time import GpuTimes

__all__ = ["Finished", "finish_bundle"]

MODEL_NAME = "model.onnx"
HALF_NAME = "model.float16.onnx"  # for a TensorRT that goes by the network's types


@dataclass(frozen=True)
class Finished:
    """`compiled`: the engine was made now, and was not in the bundle before. `warnings` are the backend's own, and what
    could not be told of the device. `layers` are those of the engine, and `on_gpu` its times on the GPU, where it is
    TensorRT's.

    `measurement` and `findings` are empty where the engine does not give the golden outputs: what computes something
    else is not worth a latency.
    """

    entry: EngineEntry
    compiled: bool
    size_bytes: int
    warnings: tuple[str, ...]
    agreements: tuple[OutputAgreement, ...]
    measurement: Measurement | None
    findings: tuple[Finding, ...]
    layers: tuple[EngineLayer, ...] = ()
    on_gpu: GpuTimes | None = None

    @property
    def agrees(self) -> bool:
        return all(output.agrees for output in self.agreements)


def finish_bundle(
    bundle: Bundle,
    output: Path,
    *,
    sessions: int = 5,
    on_phase: Callable[[str], None] = lambda phase: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Finished:
    """Compile what is pending and fits this device, check and measure it, and write the bundle with it to `output`.

    An engine that is in the bundle already and runs here is not compiled again. Raises NoEngineFits with the reason for
    each where nothing of the bundle is for this device; BackendMissing; EngineError. Nothing is written where the engine
    differs from the golden outputs, or where anything fails.
    """
    on_phase("looking at the device")
    pending, chosen, warnings = _fitting(bundle)
    requires = chosen.requires(pending.settings)
    fingerprint = chosen.fingerprint(requires)
    if misfit := chosen.misfit(requires):  # compiled ahead of time for a device that this is not
        raise NoEngineFits(f"{bundle.path}: its engine does not run here\n  {fingerprint}: {misfit}")
    there = next((entry for entry in bundle.manifest.engines if entry.fingerprint == fingerprint), None)
    if there is not None:
        entry, engine = there, bundle.read(there.path)
    else:
        on_phase("compiling the engine")
        engine, of_compiler = _compile(chosen, bundle, pending, on_phase)
        warnings += of_compiler
        path = f"engines/{fingerprint}/engine"
        entry = EngineEntry(fingerprint, pending.backend, path, pending.settings, requires)
    on_phase("running the golden inputs")
    golden = read_golden(bundle)
    with closing(chosen.open(engine, entry.settings)) as opened:
        agreements = golden.compare(opened.run(golden.inputs))
        right = all(output.agrees for output in agreements)
        layers, on_gpu = _told_by_tensorrt(opened, golden.inputs, bundle.manifest) if right else ((), None)
    finished = Finished(entry, there is None, len(engine), warnings, agreements, None, (), layers, on_gpu)
    if not finished.agrees:
        return finished
    on_phase("measuring")
    taken = _measure(bundle, entry, engine, sessions=sessions, on_progress=on_progress)
    findings = judge(bundle.manifest.budget, evidence_of(bundle.manifest, taken, size_bytes=len(engine)))
    more = {entry.measurement_path: taken.to_bytes()}
    if layers:
        more[f"engines/{entry.fingerprint}/layers.json"] = canonical_bytes(layers_to_json(layers))
    if on_gpu is not None:
        more[f"measurements/{entry.fingerprint}.gpu.json"] = canonical_bytes(on_gpu.to_json())
    _write_back(bundle, output, entry, {entry.path: engine, **more})
    return replace(finished, measurement=taken, findings=findings)


def _fitting(bundle: Bundle) -> tuple[PendingEngine, Backend, tuple[str, ...]]:
    """The first pending engine that this device can compile, its backend, and what could not be told of the device."""
    if not bundle.manifest.pending:
        raise BundleError(
            f"{bundle.path}: no engine of this bundle is pending: it is complete", hint="run it, or bench it"
        )
    reasons: list[str] = []
    hints: list[str] = []
    for pending in bundle.manifest.pending:
        chosen = backend(pending.backend)
        try:
            here = chosen.requires(pending.settings)
        except EnginewrightError as error:
            hints.insert(0, error.hint)  # what is missing comes before what differs
            reasons.append(f"{pending.backend}: {error.message}")
            continue
        found = fit(pending.requires, chosen, here)
        if not found.differences:
            return pending, chosen, found.warnings
        hints.append(found.hint)
        reasons.append(f"{pending.backend}: {'; '.join(found.differences)}")
    listed = "\n".join(f"  {reason}" for reason in reasons)
    raise NoEngineFits(f"{bundle.path}: its pending engine cannot be compiled here\n{listed}", hint=hints[0])


def _compile(
    chosen: Backend, bundle: Bundle, pending: PendingEngine, on_phase: Callable[[str], None]
) -> tuple[bytes, tuple[str, ...]]:
    """The engine, and what its compiler warned of: layers that a DLA does not take, for one."""
    from enginewright_runtime.backends.tensorrt import TensorRT

    if not isinstance(chosen, TensorRT):
        return chosen.compile(bundle.read(MODEL_NAME), pending.settings), ()
    half = HALF_NAME in bundle.contents and pending.settings.get("precision", "float16") == "float16"
    model = HALF_NAME if half and chosen.typed_by_the_network() else MODEL_NAME
    built = chosen.build(
        bundle.read(model), pending.settings, on_phase=lambda name, done, total: on_phase(f"{name} ({done} of {total})")
    )
    on_gpu = tuple(f"not on the DLA, on the GPU: {name}" for name in built.on_gpu)
    return built.engine, (*on_gpu, *built.warnings)


def _measure(
    bundle: Bundle, entry: EngineEntry, engine: bytes, *, sessions: int, on_progress: Callable[[int, int], None] | None
) -> Measurement:
    """The latency of the very bytes that are packed, on one golden sample, in fresh processes."""
    inputs = one_sample(read_golden(bundle).inputs, bundle.manifest.inputs)
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        file = Path(folder) / "engine"
        file.write_bytes(engine)
        to_measure = EngineToMeasure(file, entry.backend, entry.settings)
        return measure({"engine": to_measure}, inputs, sessions=sessions, on_progress=on_progress)


def _told_by_tensorrt(
    opened: OpenEngine, inputs: Mapping[str, Array], manifest: Manifest
) -> tuple[tuple[EngineLayer, ...], GpuTimes | None]:
    """Of an engine of TensorRT its layers, and the times of one sample on the GPU."""
    from enginewright_runtime.tensorrt.engine import TensorRTEngine
    from enginewright_runtime.tensorrt.gpu_time import time_on_gpu

    if not isinstance(opened, TensorRTEngine):
        return (), None
    return opened.layers(), time_on_gpu(opened, one_sample(inputs, manifest.inputs))


def _write_back(bundle: Bundle, output: Path, entry: EngineEntry, more: Mapping[str, bytes]) -> None:
    """The same bundle with the engine and what is known of it; it stays pending for other devices."""
    others = tuple(one for one in bundle.manifest.engines if one.fingerprint != entry.fingerprint)
    files = {**{name: bundle.read(name) for name in bundle.contents}, **more}
    try:
        write_bundle(output, replace(bundle.manifest, engines=(*others, entry)), files)
    except OSError as error:
        raise BundleError(
            f"{output}: cannot be written: {error.strerror}", hint="name another file with --output"
        ) from None
