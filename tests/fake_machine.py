"""A machine with a GPU and TensorRT that are not there, for commands that run in processes of their own.

`make_machine` writes a folder that, first on PYTHONPATH, is what an installation would be: the modules `tensorrt` (of a
recorded version) and `pycuda.driver` or `cuda.bindings.driver`, TensorRT's distribution, a `libcuda.so.1` that ctypes
finds, and a program `trtexec`. All of them are the fakes of tests/fake_tensorrt.py and tests/fake_cuda.py.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.fake_cuda import FakeBindings, FakeDriver, FakePyCuda

__all__ = ["bindings", "driver", "make_machine", "pycuda", "tensorrt"]

REPOSITORY = Path(__file__).parents[1]
_GPU_BYTES = 1 << 30

_FILES = {
    "sitecustomize.py": """
import ctypes
from functools import wraps

_real = ctypes.CDLL


@wraps(_real)
def opened(name, *arguments, **named):
    if name == "libcuda.so.1":
        from tests.fake_machine import driver
        return driver()
    return _real(name, *arguments, **named)


ctypes.CDLL = opened
""",
    "tensorrt/__init__.py": """
import sys
from tests.fake_machine import tensorrt
sys.modules[__name__] = tensorrt()
""",
}
_TRTEXEC = """#!{python}
import json, sys
from pathlib import Path
options = dict(word.partition("=")[::2] for word in sys.argv[1:])
if "--useCudaGraph" in options and "{version}".startswith("8"):
    sys.exit("Unknown option: --useCudaGraph=0")
assert Path(options["--loadEngine"]).read_bytes().startswith(b"ftrt")
Path(options["--exportTimes"]).write_text(json.dumps([{{"computeMs": 0.25, "latencyMs": 0.3}}] * 10))
"""
_THROUGH = {
    "pycuda": {
        "pycuda/__init__.py": "",
        "pycuda/driver.py": """
import sys
from tests.fake_machine import pycuda
sys.modules[__name__] = pycuda()
""",
    },
    "cuda.bindings": {
        "pycuda.py": "raise ImportError('there is none here')",
        "cuda/__init__.py": "",
        "cuda/bindings/__init__.py": "",
        "cuda/bindings/driver.py": """
import sys
from tests.fake_machine import bindings
sys.modules[__name__] = bindings()
""",
    },
}


def make_machine(
    folder: Path, version: str, *, through: str = "pycuda", int8_ms: float = 0.0, float_ms: float = 0.0
) -> dict[str, str]:
    """The environment of a process on that machine; an inference takes so long there, with Q/DQ pairs and without."""
    named = f"tensorrt-{version}.dist-info"
    about = {f"{named}/METADATA": f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n"}
    for name, text in {**_FILES, **_THROUGH[through], **about}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    program = folder / "bin" / "trtexec"
    program.parent.mkdir(exist_ok=True)
    program.write_text(_TRTEXEC.format(python=sys.executable, version=version))
    program.chmod(0o755)
    paths = [folder, REPOSITORY, REPOSITORY / "runtime", REPOSITORY / "builder"]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.pathsep.join([str(program.parent), os.environ.get("PATH", "")]),
        "FAKE_TENSORRT": version,
        "FAKE_TIMES_MS": f"{int8_ms} {float_ms}",
    }


@cache
def bindings() -> FakeBindings:
    return FakeBindings(limit_bytes=_GPU_BYTES)


@cache
def pycuda() -> FakePyCuda:
    return FakePyCuda(bindings())


@cache
def driver() -> Any:
    return FakeDriver(bindings())


def tensorrt() -> Any:
    from tests.fake_tensorrt import fake_tensorrt

    int8_ms, float_ms = map(float, os.environ["FAKE_TIMES_MS"].split())
    return fake_tensorrt(
        os.environ["FAKE_TENSORRT"],
        cuda=bindings(),
        takes_s=(int8_ms / 1e3, float_ms / 1e3),
        layers={
            "conv5": [_layer(f"conv{index}", "Int8", 0.2) for index in range(6)],  # tests/gpu/networks.py
            "x/q": [_layer("Reformatting CopyNode for x", "Int8", 0.7), _layer("conv1", "Int8", int8_ms)],
            "in": [_layer("conv1", "FP16", float_ms)],  # tests/tiny_prepared.py
        },
    )


def _layer(name: str, precision: str, ms: float) -> dict[str, Any]:
    """As the inspector tells it, and the time that the profiler does."""
    reformat = name.startswith("Reformatting")
    format = f"Row major linear {precision} format"
    return {
        "Name": name,
        "LayerType": "Reformat" if reformat else "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": format}],
        "Outputs": [{"Name": "y", "Format/Datatype": format}],
        "Metadata": "" if reformat else f"[ONNX Layer: {name}]",
        "ms": ms,
    }
