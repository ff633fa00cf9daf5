"""Tests that need an NVIDIA GPU and TensorRT; each is skipped, with the reason, where one of them is missing.

They need numpy, onnx, pytest, TensorRT 8.6 to 11, and pycuda or cuda.bindings: neither the builder nor torch.
    python -m pytest tests/gpu -m gpu -s
"""

from __future__ import annotations

from typing import Any

import pytest

from enginewright_runtime.errors import BackendMissing
from enginewright_runtime.tensorrt.cuda import open_cuda
from enginewright_runtime.tensorrt.device import Device, NoDevice, probe
from enginewright_runtime.tensorrt.library import Library, load


@pytest.fixture(scope="session")
def device() -> Device:
    try:
        return probe()
    except NoDevice as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def library(device: Device) -> Library:
    try:
        found = load("tensorrt")
        open_cuda().free()
    except BackendMissing as error:
        pytest.skip(error.message)
    return found


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One folder for the timings of the whole run: what one test timed, the next one finds."""
    folder = tmp_path_factory.getbasetemp() / "timings"
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(folder))
    return folder
