"""The tests and the benchmark for a GPU run here without one, so that the first contact with one is not with a typo.

In processes of their own, on a machine with a fake TensorRT (tests/fake_device.py); what they print of times means
nothing.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fake_cuda import H200
from tests.fake_device import REPOSITORY, FakeDevice
from tests.gpu.effort import VARIABLE
from tests.tiny_prepared import make_prepared

FOLDER_VARIABLE = "ENGINEWRIGHT_GPU_RECIPES"
FAKE = replace(H200, name="NVIDIA Fake", memory_bytes=1 << 30)
Runs = Callable[..., "subprocess.CompletedProcess[str]"]
# Int8 takes an eighth of float16's time, and the other way round: no noise of a machine turns that into its contrary.
FASTER, SLOWER = {"int8_ms": 1.0, "float_ms": 8.0}, {"int8_ms": 8.0, "float_ms": 1.0}


@pytest.fixture
def machine(tmp_path: Path) -> Runs:
    """Runs a Python command on a fake machine with a prepared folder."""

    def run(
        *command: str,
        version: str = "8.6.1",
        through: str = "pycuda",
        folder: Path | None = None,
        int8_ms: float = 0.0,
        float_ms: float = 0.0,
    ) -> subprocess.CompletedProcess[str]:
        device = FakeDevice(tmp_path / "device", FAKE, version=version, through=through)
        device.set(takes_s=(int8_ms / 1e3, float_ms / 1e3), layers=layers_by_node(int8_ms, float_ms))
        prepared = folder or make_prepared(tmp_path / "prepared")
        return subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=device.environment(**{FOLDER_VARIABLE: str(prepared), VARIABLE: "smoke", "HOME": str(tmp_path)}),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


def layers_by_node(int8_ms: float, float_ms: float) -> dict[str, Any]:
    """What TensorRT tells of the engines of those networks that have such a node."""
    return {
        "conv5": [layer(f"conv{index}", "Int8", 0.2) for index in range(6)],  # tests/gpu/networks.py
        "x/q": [layer("Reformatting CopyNode for x", "Int8", 0.7), layer("conv1", "Int8", int8_ms)],
        "in": [layer("conv1", "FP16", float_ms)],  # tests/tiny_prepared.py
    }


def layer(name: str, precision: str, ms: float) -> dict[str, Any]:
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


def pytest_on(machine: Runs, *more: str, **named: object) -> tuple[int, str]:
    done = machine("-m", "pytest", "tests/gpu", "-q", "-s", "-p", "no:cacheprovider", *more, **named)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("version", "through"), [("8.6.1", "pycuda"), ("11.4.0", "cuda.bindings")])
def test_all_tests_for_a_gpu_pass_on_a_fake_one(machine: Runs, version: str, through: str) -> None:
    code, said = pytest_on(machine, "-rs", version=version, through=through, **FASTER)
    assert code == 0, said
    skipped = re.findall(r"SKIPPED .*", said)
    # 8.6 does not tell its version in the header, as far as is known.
    assert [line for line in skipped if "the header does not tell" not in line] == []
    assert re.search(r"tiny: int8 takes 0\.\d+ times \(", said)
    assert "tiny float16: accuracy 1.0000, +0.0000 below the reference" in said
    assert "after 60 calls" in said


def test_an_int8_engine_that_is_slower_fails_with_the_layers_to_blame(machine: Runs) -> None:
    code, said = pytest_on(machine, "-k", "test_int8_is_not_slower", **SLOWER)
    assert code == 1
    assert "layers that only reformat: 1, 700.0 us; in float16 0.0 us" in said
    assert "conv1: 8000.0 us in int8, 1000.0 us in float16" in said


def test_a_folder_without_recipes_fails_and_is_not_passed_over(machine: Runs, tmp_path: Path) -> None:
    code, said = pytest_on(machine, "-k", "golden", folder=tmp_path / "nothing")
    assert code == 1
    assert "python -m tests.gpu.prepare FOLDER makes it on a workstation" in said


@pytest.mark.parametrize(
    ("version", "through", "flags"),
    [
        ("8.6.1", "pycuda", "--exposeDMA"),
        ("11.4.0", "cuda.bindings", "--exposeDMA --noDataTransfers=0 --useCudaGraph=0 --useSpinWait=0"),
    ],
    ids=["8.6.1", "11.4.0"],
)
def test_the_benchmark_prints_a_whole_page(
    machine: Runs, tmp_path: Path, version: str, through: str, flags: str
) -> None:
    page = tmp_path / "page.md"
    folder = make_prepared(tmp_path / "carried")
    done = machine("benchmarks/tensorrt_gpu.py", str(folder), "--output", str(page), version=version, through=through)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith(f"# NVIDIA Fake with TensorRT {version}, measured\n")
    assert "**A smoke run: " in text
    titles = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert titles == [
        "Accuracy",
        "Latency",
        "On the GPU, as trtexec takes it",
        "CUDA graph, and what of a call is ours",
        "Memory",
        "Builds",
        "Layers",
        "Beside trtexec",
    ]
    for engine in ("int8", "int8, graph", "float16", "float16, graph"):
        assert f"| tiny | {engine} | " in text
    assert f"| tiny | int8 | 1.000 | within | {flags} |" in text
    assert "layers that only reformat: 1, 700.0 us" in text
    assert str(tmp_path / "carried") not in text


def test_the_benchmark_says_where_there_is_nothing_to_measure(machine: Runs, tmp_path: Path) -> None:
    done = machine("benchmarks/tensorrt_gpu.py", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "holds no recipe" in done.stderr


def test_a_machine_without_a_gpu_skips_all_of_them_with_the_reason() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-rs", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", FOLDER_VARIABLE: ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "no NVIDIA driver here" in done.stdout or "finds no GPU" in done.stdout


def test_nothing_of_them_needs_the_builder_or_its_libraries_to_be_imported() -> None:
    """A device has numpy, onnx, pytest and the runtime; the builder is imported only inside functions."""
    allowed = {"numpy", "onnx", "pytest", "tests", "enginewright_runtime", *sys.stdlib_module_names}
    for path in (REPOSITORY / "tests" / "gpu").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path.name
