"""From an ONNX model to an engine: the builder's configuration, and the build."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_runtime.backends.onnx_model import declaration, node_names
from enginewright_runtime.errors import EngineError
from enginewright_runtime.interruptible import in_a_thread, killed_by_signals
from enginewright_runtime.tensorrt.calibrator import calibrator
from enginewright_runtime.tensorrt.library import Library
from enginewright_runtime.tensorrt.log import Known, Log, failure, new_log
from enginewright_runtime.tensorrt.network import parse_network, profile_of
from enginewright_runtime.tensorrt.settings import Settings
from enginewright_runtime.tensorrt.timing_cache import attach, keep

__all__ = ["Built", "OnPhase", "build"]

OnPhase = Callable[[str, int, int], None]  # the phase's name, its steps that are done, and all of them

_MIB, _KIB = 1 << 20, 1 << 10
_UNFIT_TIMINGS = re.compile(r"timing cache|tag does not match|header", re.IGNORECASE)


@dataclass(frozen=True)
class Built:
    """An engine, and what its build had to say.

    on_gpu: the layers that were to run on a DLA and do not. log: TensorRT's own lines, severity and message; the last
    of them where there are many.
    """

    engine: bytes
    on_gpu: tuple[str, ...]
    warnings: tuple[str, ...]
    log: tuple[tuple[str, str], ...]


def build(
    library: Library,
    model: bytes,
    settings: Settings,
    *,
    timings: Path | None = None,
    calibration: bytes | None = None,
    on_phase: OnPhase | None = None,
    driver_cuda: str = "",
) -> Built:
    """Build an engine. Raises EngineError with TensorRT's own words.

    `timings`: the file that keeps how fast kernels were. `calibration`: a calibration cache with the scales of a network
    without Q/DQ pairs. `on_phase` is called from several threads, where the version tells its progress; what it raises
    ends the build, and is raised again. `driver_cuda`: the newest CUDA that the driver knows, for the words of an error.

    Ctrl-C ends the build at TensorRT's next step, where the version has a monitor; where it has none, the process.
    """
    declaration(model)  # refuses what would make the parser read other files
    log = new_log(library, Known(settings.workspace_mib, driver_cuda))
    builder = _builder(library, log)
    network = parse_network(library, builder, log, model, for_dla=settings.dla_core is not None)
    config = builder.create_builder_config()
    scales = None if calibration is None else calibrator(library, calibration)
    _allow_precisions(library, config, settings, quantized=scales is not None or _has_pairs(model))
    if scales is not None:
        config.int8_calibrator = scales
    _limit(library, config, settings)
    on_gpu = _place(library, builder, network, config, settings)
    profile = profile_of(builder, model, settings.sizes)
    if profile is not None:
        config.add_optimization_profile(profile)
        if scales is not None:
            config.set_calibration_profile(profile)
    unkept = "" if timings is None else _attached(config, timings, log)
    monitor = _monitor(library, config, on_phase)
    engine = _engine(builder, network, config, monitor, log)
    if monitor is not None and monitor.raised is not None:
        raise monitor.raised
    if engine is None:
        raise failure(library, log, "could not build the engine")
    warnings = [message for name, message in log.faults if name == "WARNING"]
    warnings += [unkept] if unkept else []
    if timings is not None:
        try:
            keep(config, timings)
        except OSError as error:  # the engine is good, and the next build takes as long as this one
            warnings.append(f"the timings cannot be kept in {timings}: {error.strerror}")
    return Built(bytes(engine), on_gpu, tuple(dict.fromkeys(warnings)), tuple(log.lines))


def _engine(builder: Any, network: Any, config: Any, monitor: Any | None, log: Log) -> Any | None:
    """The serialized engine; None where there is none, and then the log has the reason.

    TensorRT calls our log and our monitor while it builds, and an exception that goes from there into C++ aborts the
    process. Ctrl-C raises one, in the main thread and nowhere else. So the build has a thread of its own, and Ctrl-C
    asks the monitor to end it. Without a monitor nothing ends it but the end of the process, which has nothing to clear
    away at this point.
    """

    def work() -> Any | None:
        try:
            return builder.build_serialized_network(network, config)
        except (MemoryError, RuntimeError) as error:  # what the bindings make of an exception inside TensorRT
            log.faults.append(("ERROR", str(error) or type(error).__name__))
            return None

    if monitor is None:
        with killed_by_signals():
            return work()
    return in_a_thread(work, cancel=monitor.cancel)


def _attached(config: Any, timings: Path, log: Log) -> str:
    """Give the configuration the timings that are kept; says why it has none of them, where there are some."""
    lines, faults = list(log.lines), list(log.faults)
    try:
        fits = attach(config, timings)
    except OSError as error:
        return f"the timings in {timings} cannot be read: {error.strerror}"
    # 8.6 takes a cache that it cannot read and goes without; and none of it is a reason for what may fail later.
    said = [message for _, message in log.faults[len(faults) :]]
    log.lines.clear()
    log.lines.extend(lines)
    log.faults[:] = faults
    if fits and not any(_UNFIT_TIMINGS.search(message) for message in said):
        return ""
    return f"the timings in {timings} are another device's or version's: they were measured anew"


def _builder(library: Library, log: Log) -> Any:
    try:
        builder = library.trt.Builder(log.logger)
    except (TypeError, RuntimeError, MemoryError):  # what the bindings make of a builder that TensorRT could not create
        builder = None
    if builder is None:
        raise failure(library, log, "could not create its builder")
    return builder


def _has_pairs(model: bytes) -> bool:
    return any(operator == "DequantizeLinear" for _, operator in node_names(model))


def _allow_precisions(library: Library, config: Any, settings: Settings, *, quantized: bool) -> None:
    """Where flags decide about precisions, Q/DQ pairs are honoured only with them; elsewhere the network decides.

    A network without pairs is not given INT8: TensorRT would ask for a calibrator.
    """
    if library.typed_by_flags:
        if quantized:
            config.set_flag(library.member("BuilderFlag", "INT8"))
        if settings.precision == "float16":
            config.set_flag(library.member("BuilderFlag", "FP16"))
    if settings.sparse:
        config.set_flag(library.member("BuilderFlag", "SPARSE_WEIGHTS"))
    config.profiling_verbosity = library.member("ProfilingVerbosity", "DETAILED")


def _limit(library: Library, config: Any, settings: Settings) -> None:
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(library.member("MemoryPoolType", "WORKSPACE"), settings.workspace_mib * _MIB)
    if settings.tactic_shared_memory_kib is not None:
        pool = library.member("MemoryPoolType", "TACTIC_SHARED_MEMORY")
        config.set_memory_pool_limit(pool, settings.tactic_shared_memory_kib * _KIB)
    if settings.optimization_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise EngineError(f"{library.kind.title} {library.version} has no optimization levels")
        config.builder_optimization_level = settings.optimization_level
    if library.ahead_of_time and settings.compute_capability is not None:
        name = f"SM{settings.compute_capability.replace('.', '')}"
        config.num_compute_capabilities = 1
        config.set_compute_capability(library.member("ComputeCapability", name), 0)


def _place(library: Library, builder: Any, network: Any, config: Any, settings: Settings) -> tuple[str, ...]:
    """Put the network on the DLA that is asked for, and name the layers that stay on the GPU."""
    if settings.dla_core is None:
        return ()
    if not settings.dla_core < int(builder.num_DLA_cores):
        raise EngineError(
            f"DLA core {settings.dla_core} is asked for, and {library.kind.title} {library.version} "
            f"finds {builder.num_DLA_cores} on this device",
            hint="leave out dla_core: the engine is then for the GPU",
        )
    config.default_device_type = library.member("DeviceType", "DLA")
    config.DLA_core = settings.dla_core
    config.set_flag(library.member("BuilderFlag", "GPU_FALLBACK"))
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return tuple(str(layer.name) for layer in layers if not config.can_run_on_DLA(layer))


def _monitor(library: Library, config: Any, on_phase: OnPhase | None) -> Any | None:
    """Tell `on_phase` how far the build is, where the version has a monitor."""
    trt = library.trt
    if on_phase is None or not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        return None
    tell = on_phase

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # the bindings carry no types
        def __init__(self) -> None:
            super().__init__()
            self.raised: BaseException | None = None
            self._steps: dict[str, int] = {}
            self._lock = threading.Lock()  # TensorRT calls from threads of its own

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._steps.get(phase_name, 0))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.raised is None  # false ends the build

        def cancel(self) -> None:
            """End the build at the next step."""
            self.raised = KeyboardInterrupt()
            self._tell("interrupted: the build ends with its present step", 0)

        def _tell(self, phase_name: str, done: int) -> None:
            try:
                with self._lock:
                    tell(phase_name, done, self._steps.get(phase_name, 0))
            except BaseException as error:  # it must not unwind through TensorRT: `build` raises it again
                self.raised = error

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor
