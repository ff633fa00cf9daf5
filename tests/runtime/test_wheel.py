"""The wheel, installed with onnxruntime alone in a clean environment, verifies and runs a bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[2] / "runtime"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command without this process's PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=environment, timeout=600
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime's wheel, built from a copy of its source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(RUNTIME, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source)
    if built.returncode != 0 and "No matching distribution found for hatchling" in built.stdout + built.stderr:
        pytest.skip("pip cannot reach an index: hatchling, which builds the wheel, cannot be installed")
    assert built.returncode == 0, built.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`enginewright-runtime` in an environment with nothing but the wheel and its extra."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    assert run(sys.executable, "-m", "venv", environment).returncode == 0
    pinned = f"onnxruntime=={metadata.version('onnxruntime')}"
    installed = run(environment / "bin" / "pip", "install", f"{wheel}[onnxruntime]", pinned)
    if installed.returncode != 0 and "No matching distribution found" in installed.stdout + installed.stderr:
        pytest.skip(f"pip cannot reach an index that has {pinned}")
    assert installed.returncode == 0, installed.stderr
    return environment / "bin" / "enginewright-runtime"


def test_the_wheel_is_small_pure_and_typed(wheel: Path) -> None:
    assert wheel.name == "enginewright_runtime-0.1.0-py3-none-any.whl"
    assert wheel.stat().st_size < 200_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "enginewright_runtime/py.typed" in names
    sources = {path.relative_to(RUNTIME).as_posix() for path in (RUNTIME / "enginewright_runtime").rglob("*.py")}
    assert sources <= set(names)
    assert all(name.startswith(("enginewright_runtime/", "enginewright_runtime-0.1.0.dist-info/")) for name in names)


def test_the_runtime_alone_verifies_runs_and_measures_a_bundle(command: Path, tiny_path: Path) -> None:
    verified = run(command, "verify", tiny_path)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.startswith(f"{tiny_path}: verified, 3 files")
    ran = run(command, "run", tiny_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "y agrees with the golden output" in ran.stdout
    benched = run(command, "bench", tiny_path, "--sessions", "2")
    assert benched.returncode == 0, benched.stderr
    assert benched.stdout.endswith("verdict: PASS\n")


def test_numpy_is_needed_and_the_libraries_that_run_engines_are_extras(command: Path) -> None:
    listed = run(
        command.parent / "python",
        "-c",
        "from importlib import metadata; print(metadata.requires('enginewright-runtime'))",
    )
    assert listed.stdout.strip() == str(
        [
            "numpy>=1.23",
            "cuda-bindings>=12.6; extra == 'cuda'",
            "onnxruntime>=1.21; extra == 'onnxruntime'",
            "openvino>=2025.0; extra == 'openvino'",
            "cryptography>=40; extra == 'signing'",
            "tensorrt>=8.6; extra == 'tensorrt'",
            "tensorrt-rtx-cu13-bindings; extra == 'tensorrt-rtx'",
            "tensorrt-rtx-cu13-libs; extra == 'tensorrt-rtx'",
        ]
    )


def test_without_the_extra_it_says_what_to_install(command: Path, tiny_path: Path) -> None:
    """Last in this module, for it takes onnxruntime away."""
    assert run(command.parent / "pip", "uninstall", "--yes", "onnxruntime").returncode == 0
    assert run(command, "verify", tiny_path).returncode == 0
    ran = run(command, "run", tiny_path)
    assert ran.returncode == 2
    assert ran.stderr == (
        f"enginewright-runtime: {tiny_path}: onnxruntime is not installed\n"
        "  fix: pip install 'enginewright-runtime[onnxruntime]'\n"
    )
