"""The runtime needs numpy alone, and loads nothing before it must."""

from __future__ import annotations

import doctest
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import enginewright_runtime

MODULES = [
    module.name for module in pkgutil.walk_packages(enginewright_runtime.__path__, prefix="enginewright_runtime.")
]

IMPORT_ALL = """
import sys

ENGINES = ("onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "openvino", "torch", "onnx", "enginewright")


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ENGINES:
            raise ImportError(f"{name} is not installed")


sys.meta_path.insert(0, Blocked())
sys.path[:0] = [sys.argv[1]]
before = set(sys.modules)
for name in sys.argv[2:]:
    __import__(name)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
loaded -= {"enginewright_runtime", *sys.stdlib_module_names}
print(*sorted(name for name in loaded if "cython" not in name))
"""


def test_every_module_imports_with_numpy_alone() -> None:
    source = str(Path(enginewright_runtime.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, source, *MODULES], capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.stderr == ""
    assert finished.stdout.split() == ["numpy"]


def test_the_list_of_modules_is_complete() -> None:
    assert {
        "enginewright_runtime.cli",
        "enginewright_runtime.worker",
        "enginewright_runtime.backends.onnxruntime",
    } <= set(MODULES)


@pytest.mark.parametrize("name", ["enginewright_runtime", *MODULES])
def test_the_examples_in_the_documentation_are_true(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


def test_what_the_package_offers_is_there() -> None:
    assert all(hasattr(enginewright_runtime, name) for name in enginewright_runtime.__all__)
    errors = {name for name in vars(import_module("enginewright_runtime.errors")) if name[0].isupper()}
    assert errors - {"ClassVar", "ExitCode"} <= set(enginewright_runtime.__all__)
