"""Finishing a bundle on its device: the engine that is pending is compiled from the bundle's model, checked on the golden
inputs, measured, and written back into the bundle. One for a GPU is measured beside the same network in float16.
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
from enginewright_runtime.device_needs import fit, fit_of_the_machine
from enginewright_runtime.errors import BundleError, EngineError, EnginewrightError, MeasurementError, NoEngineFits
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.golden import OutputAgreement, one_sample, read_golden
from enginewright_runtime.manifest import EngineEntry, PendingEngine
from enginewright_runtime.measure import EngineToMeasure, Measurement, measure
from enginewright_runtime.tensorrt.comparison import Comparison

if TYPE_CHECKING:
    from enginewright_runtime.tensorrt.examine import Examined
    from enginewright_runtime.unquantized import Unquantized

__all__ = ["Finished", "finish_bundle"]

OnPhase = Callable[[str], None]

MODEL_NAME = "model.onnx"
HALF_NAME = "model.float16.onnx"  # for a TensorRT that goes by the network's types
# The network without its Q/DQ pairs, and their scales: for a DLA, which takes no pairs where flags decide about int8.
CALIBRATED_NAME, CACHE_NAME = "calibrated.onnx", "calibration.cache"


@dataclass(frozen=True)
class Finished:
    """`compiled`: the engine was made now, and was not in the bundle before. `warnings` are the backend's own, and what
    could not be told of the device. `examined` is what an engine on a GPU tells of itself, and `float16` the same network
    without its Q/DQ pairs.

    `measurement` and `findings` are empty where the engine does not give the golden outputs: what computes something
    else is not worth a latency.
    """

    entry: EngineEntry
    compiled: bool
    size_bytes: int
    warnings: tuple[str, ...]
    agreements: tuple[OutputAgreement, ...]
    measurement: Measurement | None = None
    findings: tuple[Finding, ...] = ()
    examined: Examined | None = None
    float16: Unquantized | None = None

    @property
    def agrees(self) -> bool:
        return all(output.agrees for output in self.agreements)

    @property
    def comparison(self) -> Comparison | None:
        """The engine's layers beside those of the same network in float16."""
        if self.examined is None or self.float16 is None or not self.examined.layers:
            return None
        return self.float16.beside(self.examined.layers)


def finish_bundle(
    bundle: Bundle,
    output: Path,
    *,
    sessions: int = 5,
    on_phase: OnPhase = lambda phase: None,
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
    sample = one_sample(golden.inputs, bundle.manifest.inputs)
    with closing(chosen.open(engine, entry.settings)) as opened:
        finished = Finished(entry, there is None, len(engine), warnings, golden.compare(opened.run(golden.inputs)))
        if not finished.agrees:
            return finished
        finished = _examined(finished, opened, sample)
    finished = _with_float16(finished, bundle, pending, sample, on_phase)
    on_phase("measuring")
    taken = _measure(finished, engine, sample, sessions=sessions, on_progress=on_progress)
    findings = judge(bundle.manifest.budget, evidence_of(bundle.manifest, taken, size_bytes=len(engine)))
    finished = replace(finished, measurement=taken, findings=findings)
    _write_back(bundle, output, entry, {entry.path: engine, **_told(finished)})
    return finished


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
        found = fit_of_the_machine(pending.requires)
        if not found.differences:
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
    chosen: Backend, bundle: Bundle, pending: PendingEngine, on_phase: OnPhase
) -> tuple[bytes, tuple[str, ...]]:
    """The engine, and what its compiler warned of: layers that a DLA does not take, for one."""
    from enginewright_runtime.backends.tensorrt import TensorRT

    if not isinstance(chosen, TensorRT):
        return chosen.compile(bundle.read(MODEL_NAME), pending.settings), ()
    typed = chosen.typed_by_the_network()
    half = HALF_NAME in bundle.contents and pending.settings.get("precision", "float16") == "float16"
    if not typed and CALIBRATED_NAME in bundle.contents:
        model, calibration = bundle.read(CALIBRATED_NAME), bundle.read(CACHE_NAME)
    else:
        model, calibration = bundle.read(HALF_NAME if half and typed else MODEL_NAME), None
    built = chosen.build(model, pending.settings, calibration=calibration, on_phase=_counted(on_phase))
    on_gpu = tuple(f"not on the DLA, on the GPU: {name}" for name in built.on_gpu)
    return built.engine, (*on_gpu, *built.warnings)


def _counted(on_phase: OnPhase) -> Callable[[str, int, int], None]:
    return lambda name, done, total: on_phase(f"{name} ({done} of {total})" if total else name)


def _examined(finished: Finished, opened: OpenEngine, sample: Mapping[str, Array]) -> Finished:
    """With what an engine of TensorRT tells of itself; any other tells nothing."""
    from enginewright_runtime.tensorrt.engine import TensorRTEngine
    from enginewright_runtime.tensorrt.examine import examine

    if not isinstance(opened, TensorRTEngine):
        return finished
    found = examine(opened, sample)
    undescribed = (f"the layers are not known: {found.undescribed}",) if found.undescribed else ()
    return replace(finished, examined=found, warnings=(*finished.warnings, *undescribed))


def _with_float16(
    finished: Finished, bundle: Bundle, pending: PendingEngine, sample: Mapping[str, Array], on_phase: OnPhase
) -> Finished:
    """With the same network in float16, where the bundle has it. That it cannot be compiled harms nothing but the
    comparison.
    """
    from enginewright_runtime.backends.tensorrt import TensorRT
    from enginewright_runtime.unquantized import UNQUANTIZED_NAME, compile_unquantized

    chosen = backend(pending.backend)
    if not isinstance(chosen, TensorRT) or UNQUANTIZED_NAME not in bundle.contents:
        return finished
    on_phase("compiling the same network in float16")
    try:
        float16 = compile_unquantized(bundle, pending, chosen, sample, on_phase=_counted(on_phase))
        return replace(finished, float16=float16)
    except EngineError as error:
        lost = f"int8 is compared with nothing, for the same network in float16 fails: {error.message}"
        return replace(finished, warnings=(*finished.warnings, lost))


def _measure(
    finished: Finished,
    engine: bytes,
    sample: Mapping[str, Array],
    *,
    sessions: int,
    on_progress: Callable[[int, int], None] | None,
) -> Measurement:
    """The latency of the very bytes that are packed, on one golden sample, in fresh processes; float16 in the same
    sessions.
    """
    from enginewright_runtime.unquantized import LABEL

    engines = {"engine": (engine, finished.entry.settings)}
    if finished.float16 is not None:
        engines[LABEL] = (finished.float16.engine, finished.float16.settings)
    try:
        with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
            to_measure = {}
            for label, (data, settings) in engines.items():
                file = Path(folder) / label
                file.write_bytes(data)
                to_measure[label] = EngineToMeasure(file, finished.entry.backend, settings)
            return measure(to_measure, sample, sessions=sessions, on_progress=on_progress)
    except OSError as error:
        raise MeasurementError(
            f"the engine cannot be measured: {error.filename or tempfile.gettempdir()}: {error.strerror}",
            hint="free some space there, or set TMPDIR to a folder elsewhere",
        ) from error


def _told(finished: Finished) -> dict[str, bytes]:
    """The files of a bundle that tell what was measured of an engine."""
    entry = finished.entry
    files = {} if finished.measurement is None else {entry.measurement_path: finished.measurement.to_bytes()}
    if finished.examined is not None:
        files[f"engines/{entry.fingerprint}/layers.json"] = finished.examined.layers_file()
        files[f"measurements/{entry.fingerprint}.gpu.json"] = finished.examined.times_file()
    if finished.float16 is not None:
        files[f"engines/{entry.fingerprint}/float16-layers.json"] = finished.float16.examined.layers_file()
    return files


def _write_back(bundle: Bundle, output: Path, entry: EngineEntry, more: Mapping[str, bytes]) -> None:
    """The same bundle with the engine and what is known of it; it stays pending for other devices."""
    others = tuple(one for one in bundle.manifest.engines if one.fingerprint != entry.fingerprint)
    files = {**{name: bundle.read(name) for name in bundle.contents}, **more}
    try:
        write_bundle(output, replace(bundle.manifest, engines=(*others, entry)), files)
    except OSError as error:
        raise BundleError(
            f"{output}: cannot be written: {error.strerror}",
            hint="free some space there, or name another file with --output",
        ) from None
