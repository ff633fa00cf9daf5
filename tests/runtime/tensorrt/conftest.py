"""A fake TensorRT of each recorded version, and a GPU that is not there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest
from tests.fake_cuda import H200, FakeBindings, FakeDriver, FakePyCuda
from tests.fake_tensorrt import VERSIONS, fake_tensorrt

from enginewright_runtime.tensorrt.device import Device


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., Any]:
    """Makes this machine one with a GPU and a TensorRT, and CUDA through cuda.bindings or pycuda."""
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(tmp_path / "cache"))

    def put(version: str, *, on: Device = H200, through: str = "cuda.bindings", **behaviour: Any) -> Any:
        bindings = FakeBindings(**({"limit_bytes": behaviour.pop("limit_bytes")} if "limit_bytes" in behaviour else {}))
        module = fake_tensorrt(version, cuda=bindings, **behaviour)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        installed = {"tensorrt": version, **behaviour.pop("distributions", {})}
        monkeypatch.setattr(metadata, "version", lambda name: _installed(name, installed))
        monkeypatch.setattr("enginewright_runtime.backends.tensorrt.probe", lambda: on)
        for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.cuda"):
            monkeypatch.setitem(sys.modules, name, None)
        if through == "pycuda":
            module.world.pycuda = FakePyCuda(bindings)
            _place(monkeypatch, "pycuda.driver", module.world.pycuda)
            driver = FakeDriver(bindings, on)
            monkeypatch.setattr("enginewright_runtime.tensorrt.cuda.ctypes.CDLL", lambda name: driver)
        else:
            _place(monkeypatch, "cuda.bindings.driver", bindings)
        return module

    return put


def _installed(name: str, versions: Mapping[str, str]) -> str:
    if name not in versions:
        raise metadata.PackageNotFoundError(name)
    return versions[name]


def _place(monkeypatch: pytest.MonkeyPatch, name: str, module: Any) -> None:
    """`import_module(name)` finds it, and its packages."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
    monkeypatch.setitem(sys.modules, name, module)
