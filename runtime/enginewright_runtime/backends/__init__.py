"""The kinds of engine that this runtime runs: one module each, in one table."""

from __future__ import annotations

from importlib import import_module

from enginewright_runtime.backends.protocol import Array, Backend, OpenEngine
from enginewright_runtime.errors import EngineError

__all__ = ["BACKENDS", "Array", "Backend", "OpenEngine", "backend"]

BACKENDS: dict[str, str] = {
    "onnxruntime": "enginewright_runtime.backends.onnxruntime",
    "openvino": "enginewright_runtime.backends.openvino",
    "tensorrt": "enginewright_runtime.backends.tensorrt",
    "tensorrt_rtx": "enginewright_runtime.backends.tensorrt_rtx",
}


def backend(name: str) -> Backend:
    """The backend of that name, from its module's constant BACKEND. An unknown name raises EngineError."""
    if name not in BACKENDS:
        raise EngineError(
            f"unknown backend {name!r}; this runtime has {', '.join(sorted(BACKENDS))}",
            hint="pip install --upgrade enginewright-runtime",
        )
    found: Backend = import_module(BACKENDS[name]).BACKEND
    return found
