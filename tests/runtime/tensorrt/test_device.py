"""What this machine's GPU is, asked in a process of its own, and why there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enginewright_runtime.tensorrt.cuda_codes import cuda_hint
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


def test_a_child_that_ends_by_a_signal_without_a_name_is_told_too() -> None:
    with pytest.raises(NoDevice, match=r"crashed the process that asked it \(signal 40\)") as caught:
        read_answer(-40, "", "")
    assert caught.value.hint == "install the driver anew, or update it"


HIDDEN = "CUDA_VISIBLE_DEVICES is '', which hides GPUs: unset it, or name one that is there"


@pytest.mark.parametrize(
    ("code", "more", "message", "hint"),
    [
        (100, {}, "finds no GPU (cuInit gives 100)", cuda_hint(100, environment={})),
        (100, {"CUDA_VISIBLE_DEVICES": ""}, "finds no GPU (cuInit gives 100)", HIDDEN),
        (803, {}, "does not start (cuInit gives 803)", cuda_hint(803)),
        (35, {}, "does not start (cuInit gives 35)", "run nvidia-smi for the cause"),
    ],
)
def test_the_child_asks_the_driver_itself(
    code: int, more: dict[str, str], message: str, hint: str, tmp_path: Path
) -> None:
    """A stand-in for the driver whose cuInit fails: without a GPU, with one that is hidden, with a driver that is broken."""
    source = tmp_path / "driver.s"
    source.write_text(f".text\n.globl cuInit\ncuInit:\nmov ${code}, %eax\nret\n")
    library = tmp_path / "libcuda.so.1"
    compiled = subprocess.run(["gcc", "-shared", "-nostdlib", "-o", library, source], capture_output=True, check=False)
    if compiled.returncode:
        pytest.skip("needs gcc for x86-64")
    program = (
        "from enginewright_runtime.tensorrt.device import probe\n"
        "try:\n    probe()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "runtime"), **more}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout == f"NoDevice the NVIDIA driver {message}\n  fix: {hint}\n"
