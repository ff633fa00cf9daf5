"""The GPU of this machine, asked in a child process: a broken driver, and some versions of TensorRT without a GPU, take
their process with them.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from enginewright_runtime.errors import EngineError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.tensorrt.cuda_codes import NO_DEVICE, cuda_hint

__all__ = ["Device", "NoDevice", "examine_driver", "probe"]

_LIMIT_SECONDS = 60.0  # a GPU that sleeps takes seconds to wake
_PACKAGE = Path(__file__).parents[2]

# cuDeviceGetAttribute, of the CUDA driver API (cuda.h); these numbers never change.
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
_ANSWER = "enginewright device: "


class NoDevice(EngineError):
    """This machine has no GPU that can be used; the message says why."""


@dataclass(frozen=True)
class Device:
    """A GPU. `driver_cuda` is the newest CUDA that its driver knows, such as 12.6. `integrated`: it shares the
    processor's memory. `sm_count` is of those that are switched on. `pci_bus` is its address there, such as
    0000:65:00.0; empty where the driver does not say.
    """

    name: str
    compute_capability: str
    sm_count: int
    memory_bytes: int
    integrated: bool
    driver_cuda: str
    pci_bus: str = ""


@cache
def probe() -> Device:
    """The first GPU of this machine; it is asked once. Raises NoDevice."""
    code = f"import sys; sys.path.insert(0, {str(_PACKAGE)!r}); " + (
        "from enginewright_runtime.tensorrt.device import examine_driver; examine_driver()"
    )
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoDevice(
            f"the NVIDIA driver gave no answer in {_LIMIT_SECONDS:.0f} s", hint="restart the machine"
        ) from None
    return read_answer(answer.returncode, answer.stdout, answer.stderr)


def read_answer(code: int, out: str, err: str) -> Device:
    """What the child process said. Raises NoDevice."""
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        raise NoDevice(
            f"the NVIDIA driver crashed the process that asked it ({name})",
            hint="install the driver anew, or update it",
        )
    lines = [line[len(_ANSWER) :] for line in out.splitlines() if line.startswith(_ANSWER)]
    if not lines:
        said = err.strip().splitlines()
        raise NoDevice(
            f"the NVIDIA driver could not be asked: {said[-1] if said else 'no answer'}",
            hint="run nvidia-smi for the cause",
        )
    document = JsonField(json.loads(lines[-1]), "the answer of the device probe", NoDevice)
    fields = document.fields()
    if "reason" in fields:
        raise NoDevice(fields["reason"].text(), hint=fields["hint"].text())
    return Device(
        name=document.field("name").text(),
        compute_capability=document.field("compute_capability").text(),
        sm_count=document.field("sm_count").integer(),
        memory_bytes=document.field("memory_bytes").integer(),
        integrated=document.field("integrated").boolean(),
        driver_cuda=document.field("driver_cuda").text(),
        pci_bus=fields["pci_bus"].text() if "pci_bus" in fields else "",
    )


def examine_driver() -> None:
    """In the child process: ask the driver by its own library, and print one line."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        _answer(reason="there is no NVIDIA driver here", hint="install the driver, or go where the GPU is")
        return
    if (code := driver.cuInit(0)) != 0:
        failed = "finds no GPU" if code == NO_DEVICE else "does not start"
        hint = cuda_hint(code) or "run nvidia-smi for the cause"
        _answer(reason=f"the NVIDIA driver {failed} (cuInit gives {code})", hint=hint)
        return
    count, handle = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value or driver.cuDeviceGet(ctypes.byref(handle), 0):
        _answer(reason="the NVIDIA driver finds no GPU", hint=cuda_hint(NO_DEVICE))
        return
    _answer(**_described(driver, handle))


def _described(driver: Any, handle: Any) -> dict[str, Any]:
    import ctypes

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, handle)
        return value.value

    name, memory, version = ctypes.create_string_buffer(256), ctypes.c_size_t(), ctypes.c_int()
    bus = ctypes.create_string_buffer(32)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceGetPCIBusId(bus, len(bus), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        "sm_count": attribute(_MULTIPROCESSORS),
        "memory_bytes": memory.value,
        "integrated": bool(attribute(_INTEGRATED)),
        "driver_cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "pci_bus": bus.value.decode(errors="replace"),
    }


def _answer(**found: Any) -> None:
    sys.stdout.write(_ANSWER + json.dumps(found) + "\n")
