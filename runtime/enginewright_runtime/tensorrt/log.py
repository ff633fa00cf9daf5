"""TensorRT's own log lines: what it says when something fails, for it raises nothing itself."""

from __future__ import annotations

import re
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt.cuda_codes import BUSY, NO_DEVICE, cuda_hint
from enginewright_runtime.tensorrt.library import Library

__all__ = ["Known", "Log", "failure", "hint_for", "new_log"]

_MOST_LINES = 2_000  # of a verbose log that may have hundreds of thousands
_SHOWN = 8


@dataclass(frozen=True)
class Known:
    """What a fix is told with: the limit that is set, and the newest CUDA that the driver knows; "" is unknown."""

    workspace_mib: int | None = None
    driver_cuda: str = ""


# The wordings are those of TensorRT 8.4 to 10.12, as its users quote them in public issues.
_MEMORY = re.compile(
    r"out ?of ?memory|cudaErrorMemoryAllocation|insuff?icient memory|memory is insufficient|"
    r"allocator error allocating|GPU memory \(\d+ bytes\) could not be allocated|cannot allocate memory|bad_alloc",
    re.IGNORECASE,
)
_NO_KERNEL = re.compile(r"no implementation|could not find any implementation|has no runners", re.IGNORECASE)
_OLD_DRIVER = re.compile(r"failure with error:? 35\b|driver version is insufficient|insufficient driver", re.IGNORECASE)
_NO_CUDA = re.compile(r"CUDA initialization failure(?: with error:? (\d+))?|no CUDA-capable device", re.IGNORECASE)
_BUSY = re.compile(r"busy or unavailable|devicesUnavailable|DEVICE_UNAVAILABLE", re.IGNORECASE)
_OTHER_VERSION = re.compile(
    r"(?:version|magic) tag does not match|version mismatch|different version|not compatible with this version",
    re.IGNORECASE,
)
_OTHER_GPU = re.compile(
    r"incompatible device|different.{0,40}(?:device|compute capability)|unsupported SM|target GPU SM \d+ is not supported",
    re.IGNORECASE,
)
_NO_GRAPH = re.compile(r"stream is capturing|StreamCapture|STREAM_CAPTURE", re.IGNORECASE)
_NO_OPERATOR = re.compile(r"no importer|plugin not found|could not find plugin|UNSUPPORTED_NODE", re.IGNORECASE)


class Log:
    """What TensorRT says from now on: `lines` of severity's name and message, and of those its `faults`; the last of them
    where there are many. `logger` is what TensorRT is to be given.
    """

    def __init__(self, logger: Any, known: Known) -> None:
        self.logger = logger
        self.known = known
        self.lines: deque[tuple[str, str]] = deque(maxlen=_MOST_LINES)
        self.faults: list[tuple[str, str]] = []

    def hear(self, name: str, message: str) -> None:
        """Keep one line."""
        self.lines.append((name, message))
        if name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
            self.faults.append((name, message))
            del self.faults[:-_MOST_LINES]


def new_log(library: Library, known: Known | None = None) -> Log:
    """A log of the library's words, until it is dropped.

    With several engines open, each log has the words about all of them: TensorRT does not say whose they are.
    """
    logger = _logger(library.trt)
    log = Log(logger, known or Known())
    logger.add(log)
    return log


@cache
def _logger(trt: ModuleType) -> Any:
    """The one logger of this process. TensorRT takes the first that it is given, uses it for whatever is made until all
    builders and runtimes are gone, and does not keep it alive: one of an engine that is closed would be gone too early.
    """

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # the bindings carry no types
        def __init__(self) -> None:
            super().__init__()
            self._lock = threading.Lock()
            self._logs: tuple[weakref.ref[Log], ...] = ()

        def add(self, log: Log) -> None:
            with self._lock:
                self._logs = (*(one for one in self._logs if one() is not None), weakref.ref(log))

        def log(self, severity: Any, message: str) -> None:
            for one in self._logs:  # never changed in place: TensorRT calls from threads of its own
                if (log := one()) is not None:
                    log.hear(str(getattr(severity, "name", severity)), message)

        def flush(self) -> None:
            """TensorRT calls nothing of this; the interpreter may, at its end."""

    return Logger()


def failure(library: Library, log: Log, what: str) -> EngineError:
    """The error for a call that gave None: its message keeps TensorRT's own last words."""
    errors = [message for name, message in log.faults if name != "WARNING"]
    warnings = [message for name, message in log.faults if name == "WARNING"]
    said = errors or [message for _, message in list(log.lines)[-_SHOWN:]]
    lines = "\n".join(f"  {line}" for line in dict.fromkeys(_one_line(message) for message in said[-_SHOWN:]))
    message = f"{library.kind.title} {library.version} {what}"
    hint = hint_for("\n".join(said), "\n".join(warnings), log.known)
    return EngineError(f"{message}; it says:\n{lines}" if lines else f"{message}, and says nothing", hint=hint)


def hint_for(said: str, warned: str, known: Known) -> str:
    """What a user can do about what TensorRT says; "" where we know nothing.

    It may tell the cause in a warning and the consequence in an error: memory that was too small for each kernel in
    turn, and then that there is none for the node; or CUDA's error code, and then that there is no builder.
    """
    if _NO_KERNEL.search(said) and _MEMORY.search(warned):
        said = f"{said}\n{warned}"
    return _hint(said, known) or _hint(warned, known)


def _hint(text: str, known: Known) -> str:
    limit = known.workspace_mib
    if _MEMORY.search(text):
        now = f"now {limit}" if limit else "not set now, so the builder may take the GPU's whole memory"
        return f"lower workspace_mib of the target ({now}) and build the bundle again, or end what else uses the GPU's memory"
    if _NO_KERNEL.search(text):
        raised = f"raise workspace_mib of the target (now {limit}), or " if limit else ""
        return f"{raised}keep that layer in float (keep_float in the recipe), and build the bundle again"
    if _OLD_DRIVER.search(text):
        knows = f" (it knows CUDA {known.driver_cuda} at the most)" if known.driver_cuda else ""
        return f"the driver is older than this TensorRT wants{knows}: update it, or install a TensorRT for its CUDA"
    if _BUSY.search(text):
        return cuda_hint(BUSY)
    if found := _NO_CUDA.search(text):  # the runtime's codes are the driver's, as far as they are known here
        return cuda_hint(int(found[1] or NO_DEVICE)) or "run nvidia-smi: TensorRT finds no GPU that it can use"
    if _OTHER_VERSION.search(text):
        return "it was built by another version: enginewright-runtime compile BUNDLE builds it again"
    if _OTHER_GPU.search(text):
        return "it was built for another GPU: enginewright-runtime compile BUNDLE builds it again"
    if _NO_GRAPH.search(text):
        return "this engine cannot be captured into a CUDA graph: leave out cuda_graph of the target"
    if _NO_OPERATOR.search(text):
        return "this version lacks that operator, and plugins are not loaded: write the network with other operators"
    return ""


def _one_line(message: str) -> str:
    return " ".join(message.split())[:500]
