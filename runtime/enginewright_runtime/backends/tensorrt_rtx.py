"""Engines of TensorRT-RTX, built ahead of time for a GPU that is elsewhere; see the backend `tensorrt`."""

from __future__ import annotations

from enginewright_runtime.backends.tensorrt import TensorRT

BACKEND = TensorRT("tensorrt_rtx", "tensorrt-rtx")
