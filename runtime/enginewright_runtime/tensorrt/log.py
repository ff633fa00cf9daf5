"""TensorRT's own log lines: what it says when something fails, for it raises nothing itself."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt.library import Library

__all__ = ["failure", "new_log"]

_MOST_LINES = 2_000  # of a verbose log that may have hundreds of thousands
_SHOWN = 8

# What TensorRT says, and what a user can do about it.
_HINTS = (
    (r"[Oo]ut ?[Oo]f ?[Mm]emory|cuda(?:Error)?MemoryAlloc|insufficient memory", "lower workspace_mib of the target"),
    (
        r"no implementation|[Cc]ould not find any implementation|has no runners",
        "raise workspace_mib, or keep that layer in float",
    ),
    (
        r"error: 35\b|driver version is insufficient|[Ii]nsufficient driver",
        "the driver is older than this TensorRT wants: update it",
    ),
    (r"CUDA initialization failure|no CUDA-capable device", "run nvidia-smi: TensorRT finds no GPU that it can use"),
    (r"Version tag does not match|[Vv]ersion mismatch|different version", "build the engine again with this TensorRT"),
    (r"different.{0,40}(?:device|compute capability)|[Uu]nsupported SM", "build the engine again on this GPU"),
)


def new_log(library: Library) -> Any:
    """A logger of the library's own class that keeps `lines`, pairs of severity's name and message."""
    trt = library.trt

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # the bindings carry no types
        def __init__(self) -> None:
            super().__init__()
            self.lines: deque[tuple[str, str]] = deque(maxlen=_MOST_LINES)
            self.faults: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            name = str(getattr(severity, "name", severity))
            self.lines.append((name, message))
            if name in ("INTERNAL_ERROR", "ERROR", "WARNING") and len(self.faults) < _MOST_LINES:
                self.faults.append((name, message))

        def flush(self) -> None:
            """TensorRT calls nothing of this; the interpreter may, at its end."""

    return Log()


def failure(library: Library, log: Any, what: str) -> EngineError:
    """The error for a call that gave None: its message keeps TensorRT's own last words."""
    errors = [message for name, message in log.faults if name != "WARNING"]
    said = errors or [message for _, message in list(log.lines)[-_SHOWN:]]
    lines = "\n".join(f"  {line}" for line in dict.fromkeys(_one_line(message) for message in said[-_SHOWN:]))
    everything = "\n".join(said)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, everything)), "")
    message = f"{library.kind.title} {library.version} {what}"
    return EngineError(f"{message}; it says:\n{lines}" if lines else f"{message}, and says nothing", hint=hint)


def _one_line(message: str) -> str:
    return " ".join(message.split())[:500]
