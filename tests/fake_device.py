"""A folder that makes any Python process believe that its machine has an NVIDIA GPU and a TensorRT.

With the folder first on PYTHONPATH, commands run as they do on such a machine: the probe of the driver, the build, the
workers that measure. Nothing in them is patched. What they import and open are the fakes of tests/fake_cuda.py and
tests/fake_tensorrt.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.fake_cuda import H200, Code, FakeBindings, FakeDriver, FakePyCuda

from enginewright_runtime.tensorrt.device import Device

__all__ = ["FakeDevice", "bindings", "driver", "pycuda", "tensorrt", "until"]

REPOSITORY = Path(__file__).parents[1]
_FOLDER = "FAKE_DEVICE"  # the variable that tells a process its machine
_FACTS = "facts.json"

_START = """\
import ctypes

_real = ctypes.CDLL


class CDLL(_real):
    def __new__(cls, name, *arguments, **named):
        if name == "libcuda.so.1":
            from tests.fake_device import driver

            return driver()
        return _real(name, *arguments, **named)


ctypes.CDLL = CDLL
"""
_MODULE = """\
import sys

from tests.fake_device import {it}

sys.modules[__name__] = {it}()
"""
_THROUGH = {
    "pycuda": {"pycuda/__init__.py": "", "pycuda/driver.py": _MODULE.format(it="pycuda")},
    "cuda.bindings": {
        "pycuda.py": "raise ImportError('there is none here')\n",
        "cuda/__init__.py": "",
        "cuda/bindings/__init__.py": "",
        "cuda/bindings/driver.py": _MODULE.format(it="bindings"),
    },
}
_TRTEXEC = """\
#!{python}
import json, sys
from pathlib import Path
options = dict(word.partition("=")[::2] for word in sys.argv[1:])
if "--useCudaGraph" in options and "{version}".startswith("8"):
    sys.exit("Unknown option: --useCudaGraph=0")
assert Path(options["--loadEngine"]).read_bytes().startswith(b"ftrt")
Path(options["--exportTimes"]).write_text(json.dumps([{{"computeMs": 0.25, "latencyMs": 0.3}}] * 10))
"""


@dataclass(frozen=True)
class FakeDevice:
    """A machine with that GPU; `environment` is for its processes.

    `version` is TensorRT's, and `distributions` what it was installed as; without any, there is none, and no trtexec.
    CUDA is reached `through` pycuda or cuda.bindings. `driver`: whether the driver's library is there; `cu_init` is the
    code that it starts with.
    """

    folder: Path
    gpu: Device = H200
    _: KW_ONLY
    version: str = "10.3.0"
    distributions: tuple[str, ...] = ("tensorrt",)
    through: str = "cuda.bindings"
    driver: bool = True
    cu_init: int = 0

    def __post_init__(self) -> None:
        self.set()
        files = {"sitecustomize.py": _START, **_THROUGH[self.through]}
        if self.distributions:
            files["tensorrt/__init__.py"] = _MODULE.format(it="tensorrt")
            files["bin/trtexec"] = _TRTEXEC.format(python=sys.executable, version=self.version)
        for name in self.distributions:
            told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {self.version}\n"
            files[f"{name.replace('-', '_')}-{self.version}.dist-info/METADATA"] = told
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def set(self, *, refuses: Mapping[str, int] | None = None, **behaviour: Any) -> None:
        """What TensorRT does in the processes that start from now on: see fake_tensorrt; `blocks` is a file that a build
        writes before it waits for ever in its first step, as TensorRT does: without looking at signals. `refuses` are
        calls of cuda.bindings, with the code that each gives.
        """
        facts = {
            "gpu": asdict(self.gpu),
            "version": self.version,
            "driver": self.driver,
            "cu_init": self.cu_init,
            "refuses": dict(refuses or {}),
            "behaviour": behaviour,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _FACTS).write_text(json.dumps(facts))

    def environment(self, **more: str) -> dict[str, str]:
        paths = [self.folder, REPOSITORY / "runtime", REPOSITORY / "builder", REPOSITORY]
        return {
            **{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
            "PATH": os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ORT_DISABLE_TELEMETRY": "1",  # it computes for the fake, and would write into the temporary folder
            "ENGINEWRIGHT_CACHE": str(self.folder / "cache"),
            _FOLDER: str(self.folder),
            **more,
        }

    def processes(self) -> list[int]:
        """The processes of this machine that still run."""
        mark = f"{_FOLDER}={self.folder}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it ended meanwhile
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other processes bring about."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it did not come to this"
        time.sleep(0.02)


# The rest is for the processes of such a machine.


@cache
def _facts() -> Any:
    return json.loads((Path(os.environ[_FOLDER]) / _FACTS).read_text())


@cache
def bindings() -> FakeBindings:
    """The module cuda.bindings.driver."""
    made = FakeBindings(limit_bytes=_facts()["gpu"]["memory_bytes"])
    made.refuses = {name: Code(code) for name, code in _facts()["refuses"].items()}
    return made


@cache
def pycuda() -> FakePyCuda:
    """The module pycuda.driver."""
    return FakePyCuda(bindings())


def driver() -> FakeDriver:
    """The library libcuda.so.1. Raises OSError where there is none."""
    facts = _facts()
    if not facts["driver"]:
        raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
    return FakeDriver(bindings(), Device(**facts["gpu"]), cu_init=facts["cu_init"])


def tensorrt() -> Any:
    """The module tensorrt."""
    from tests.fake_tensorrt import fake_tensorrt

    behaviour = dict(_facts()["behaviour"])
    if blocks := behaviour.pop("blocks", None):
        behaviour["before_step"] = lambda: _block(Path(blocks))
    return fake_tensorrt(_facts()["version"], cuda=bindings(), **behaviour)


def _block(mark: Path) -> None:
    """Wait in C, where a signal's handler of Python's has no say; until a file `<mark>.goes-on` is there."""
    library = ctypes.CDLL(None)
    mark.touch()
    while not mark.with_name(f"{mark.name}.goes-on").exists():
        library.usleep(20_000)
