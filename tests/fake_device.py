"""A folder that makes any Python process believe that its machine has an NVIDIA GPU and a TensorRT.

With the folder first on PYTHONPATH, the command lines run as they do on such a machine: the probe of the driver, the
build, the workers that measure. Nothing in them is patched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
H200 = {"name": "NVIDIA H200", "compute_capability": "9.0", "sm_count": 132, "memory_gib": 141, "driver_cuda": "13.0"}
ORIN = {"name": "Orin", "compute_capability": "8.7", "sm_count": 16, "memory_gib": 64, "driver_cuda": "12.6"}

_START = """\
import ctypes
import json
import os
from pathlib import Path

_GPU = json.loads(Path({facts!r}).read_text())["gpu"]
_real = ctypes.CDLL


class _Driver:
    def cuInit(self, flags):
        return _GPU.get("cuInit", 100 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else 0)

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, handle, index):
        return 0

    def cuDeviceGetName(self, name, size, handle):
        name.value = _GPU["name"].encode()
        return 0

    def cuDeviceGetPCIBusId(self, bus, size, handle):
        bus.value = b"0000:65:00.0"
        return 0

    def cuDeviceTotalMem_v2(self, memory, handle):
        memory._obj.value = _GPU["memory_gib"] << 30
        return 0

    def cuDriverGetVersion(self, version):
        major, minor = _GPU["driver_cuda"].split(".")
        version._obj.value = int(major) * 1000 + int(minor) * 10
        return 0

    def cuDeviceGetAttribute(self, value, number, handle):
        major, minor = _GPU["compute_capability"].split(".")
        known = {{16: _GPU["sm_count"], 18: _GPU["name"] == "Orin", 75: major, 76: minor}}
        value._obj.value = int(known.get(number, 0))
        return 0


class CDLL(_real):
    def __new__(cls, name, *arguments, **named):
        if name == "libcuda.so.1":
            if _GPU.get("driver") is False:
                raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
            return _Driver()
        return _real(name, *arguments, **named)


ctypes.CDLL = CDLL
"""
_TENSORRT = """\
import json
import sys
from pathlib import Path

from tests.fake_device import module_of

sys.modules[__name__] = module_of(json.loads(Path({facts!r}).read_text()))
"""
_CUDA = """\
import json
import sys
from pathlib import Path

from tests.fake_cuda import Code, FakeBindings

sys.modules[__name__] = FakeBindings()
refuses = json.loads(Path({facts!r}).read_text())["refuses"]
sys.modules[__name__].refuses = {{name: Code(code) for name, code in refuses.items()}}
"""


@dataclass(frozen=True)
class FakeDevice:
    """A machine with that GPU. `environment` is for its processes."""

    folder: Path
    gpu: Mapping[str, Any]
    version: str = "10.3.0"
    distributions: tuple[str, ...] = ("tensorrt",)

    def __post_init__(self) -> None:
        self.set()
        facts = str(self._facts)
        self._write("sitecustomize.py", _START.format(facts=facts))
        if self.distributions:
            self._write("tensorrt/__init__.py", _TENSORRT.format(facts=facts))
        self._write("cuda/__init__.py", "")
        self._write("cuda/bindings/__init__.py", "")
        self._write("cuda/bindings/driver.py", _CUDA.format(facts=facts))
        for name in self.distributions:
            told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {self.version}\n"
            self._write(f"{name.replace('-', '_')}-{self.version}.dist-info/METADATA", told)

    def set(self, **behaviour: Any) -> None:
        """What TensorRT does from now on: see fake_tensorrt; `blocks` is a file that a build writes before it waits for
        ever in its first step, as TensorRT does: without looking at signals; `refuses` are calls of CUDA, with the code
        that each gives.
        """
        refuses = behaviour.pop("refuses", {})
        facts = {"version": self.version, "gpu": dict(self.gpu), "refuses": refuses, "behaviour": behaviour}
        self._write(self._facts.name, json.dumps(facts))

    def environment(self, **more: str) -> dict[str, str]:
        paths = [self.folder, REPOSITORY / "runtime", REPOSITORY / "builder", REPOSITORY]
        return {
            **{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ORT_DISABLE_TELEMETRY": "1",  # it computes for the fake, and would write into the temporary folder
            "ENGINEWRIGHT_CACHE": str(self.folder / "cache"),
            **more,
        }

    def processes(self) -> list[int]:
        """The processes of this machine that still run."""
        mark = f"ENGINEWRIGHT_CACHE={self.folder / 'cache'}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it ended meanwhile
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    @property
    def _facts(self) -> Path:
        return self.folder / "facts.json"

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def module_of(facts: Mapping[str, Any]) -> Any:
    """In a process of that machine: its TensorRT."""
    from importlib import import_module

    from tests.fake_tensorrt import fake_tensorrt

    behaviour = dict(facts["behaviour"])
    if blocks := behaviour.pop("blocks", None):
        behaviour["before_step"] = lambda: _block(Path(blocks))
    return fake_tensorrt(facts["version"], cuda=import_module("cuda.bindings.driver"), **behaviour)


def _block(mark: Path) -> None:
    """Wait in C, where a signal's handler of Python's has no say; until a file `<mark>.goes-on` is there."""
    import ctypes

    library = ctypes.CDLL(None)
    mark.touch()
    while not mark.with_name(f"{mark.name}.goes-on").exists():
        library.usleep(20_000)
