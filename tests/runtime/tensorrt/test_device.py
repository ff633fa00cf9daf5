"""What this machine's GPU is, asked in a process of its own, and why there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enginewright_runtime.tensorrt.device import Device, NoDevice, read_answer

REPOSITORY = Path(__file__).parents[3]
FOUND = {
    "name": "Orin",
    "compute_capability": "8.7",
    "sm_count": 16,
    "memory_bytes": 64 << 30,
    "integrated": True,
    "driver_cuda": "12.6",
}


def answer(**found: object) -> str:
    return f"some library greets\nenginewright device: {json.dumps(found)}\n"


def test_the_answer_is_found_among_what_libraries_print() -> None:
    assert read_answer(0, answer(**FOUND), "") == Device("Orin", "8.7", 16, 64 << 30, True, "12.6")


def test_a_driver_that_crashes_its_process_is_named_and_takes_nothing_with_it() -> None:
    with pytest.raises(NoDevice, match=r"crashed the process that asked it \(SIGSEGV\)"):
        read_answer(-signal.SIGSEGV, "", "")


def test_a_reason_of_the_child_is_the_message() -> None:
    with pytest.raises(NoDevice, match="finds no GPU") as caught:
        read_answer(0, answer(reason="the NVIDIA driver finds no GPU", hint="see nvidia-smi"), "")
    assert caught.value.hint == "see nvidia-smi"


def test_a_child_that_ends_badly_is_told_with_its_last_line() -> None:
    with pytest.raises(NoDevice, match="could not be asked: MemoryError"):
        read_answer(1, "", "Traceback (most recent call last):\nMemoryError\n")


@pytest.mark.parametrize("code", [100, 35])
def test_the_child_asks_the_driver_itself(code: int, tmp_path: Path) -> None:
    """A stand-in for the driver whose cuInit fails, as without a GPU, or with a driver that is too old."""
    source = tmp_path / "driver.s"
    source.write_text(f".text\n.globl cuInit\ncuInit:\nmov ${code}, %eax\nret\n")
    library = tmp_path / "libcuda.so.1"
    compiled = subprocess.run(["gcc", "-shared", "-nostdlib", "-o", library, source], capture_output=True, check=False)
    if compiled.returncode:
        pytest.skip("needs gcc for x86-64")
    program = (
        "from enginewright_runtime.tensorrt.device import probe\n"
        "try:\n    probe()\nexcept Exception as error:\n    print(type(error).__name__, error.message)"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "runtime")}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout == f"NoDevice the NVIDIA driver finds no GPU (cuInit gives {code})\n"
