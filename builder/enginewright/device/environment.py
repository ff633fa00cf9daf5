"""A virtual environment on the device with the runtime of this build, made once for each version of it and kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence

from enginewright.device.connection import Device
from enginewright.device.errors import DeviceError
from enginewright.device.job import Jobs, Place
from enginewright.device.wheel import DISTRIBUTION, runtime_wheel
from enginewright.errors import listed
from enginewright_runtime.canonical import sha256_hex

__all__ = ["explained", "extras_for", "make_environment", "requirements"]

# The extras of the runtime that each backend wants, and the modules one of which shows that it needs no installing: a
# Jetson has TensorRT from JetPack, and pycuda does what cuda-bindings do.
_MODULES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx",),
    "cuda": ("pycuda", "cuda.bindings"),
}
_EXTRAS = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "cuda"),
    "tensorrt_rtx": ("tensorrt-rtx", "cuda"),
}
# The environment sees the device's packages too, and the runtime must be the one that was sent.
_OURS = "import enginewright_runtime.cli as cli, sys; sys.exit(not cli.__file__.startswith(sys.prefix))"
_PROBE = """
import importlib.util, json, sys
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
print(json.dumps([name for name in sys.argv[1:] if there(name)]))
"""

# The CUDA of the driver, its major version; it fails where there is no driver.
_DRIVER = """
import ctypes
version = ctypes.c_int()
ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
print(version.value // 1000)
"""


def extras_for(backend: str, there: Collection[str]) -> tuple[str, ...]:
    """The extras that are still to be installed for a backend, where the device has the modules `there`.

    >>> extras_for("tensorrt", {"numpy", "tensorrt"})
    ('cuda',)
    """
    return tuple(extra for extra in _EXTRAS[backend] if not any(name in there for name in _MODULES[extra]))


def requirements(extras: Sequence[str], *, driver_cuda: str) -> list[str]:
    """What pip is asked for. cuda-bindings of a newer CUDA than the driver's ask it for functions that it lacks, so they are
    those of the driver's major version, where that is known.

    >>> requirements(["cuda"], driver_cuda="12")
    ['enginewright-runtime[cuda]', 'cuda-bindings==12.*']
    """
    wanted = [f"{DISTRIBUTION}[{','.join(extras)}]" if extras else DISTRIBUTION]
    return [*wanted, f"cuda-bindings=={driver_cuda}.*"] if driver_cuda and "cuda" in extras else wanted


async def make_environment(
    device: Device, place: Place, backend: str, *, jobs: Jobs, on_line: Callable[[str], None]
) -> str:
    """The folder of the environment's programs. It sees what is installed on the device, and pip is asked for what is
    missing. Raises DeviceError with what pip says and what to install.
    """
    name, wheel = runtime_wheel()
    key = sha256_hex(wheel + place.python.encode())[:16]
    folder = f"{place.root}/environments/{key}"
    python = f"{folder}/venv/bin/python"
    # Whether it was made is read before it is looked at: another build may be making it just now.
    _, made, _ = await device.run(["sh", "-c", f"cat '{folder}/make/status' 2>/dev/null || true"])
    if (await device.run([python, "-c", _OURS]))[0] != 0:
        if made.strip() == "0":  # somebody has removed what was made
            await device.run(["rm", "-rf", f"{folder}/make"])
        await device.run(["mkdir", "-p", folder])
        await device.put(wheel, f"{folder}/{name}")
        script = (
            f"set -e; cd '{folder}'; rm -rf venv; python3 -m venv --system-site-packages venv; "
            f"venv/bin/python -m pip install --disable-pip-version-check --no-index --no-deps --force-reinstall '{name}'"
        )
        ended = await jobs.run(f"{folder}/make", ["sh", "-c", script], on_line=on_line)
        if ended.code != 0:
            raise explained(f"{ended.out}\n" + "\n".join(ended.log), device, ())
    there = await _there(device, python)
    extras = extras_for(backend, there)
    if extras or "numpy" not in there:
        _, driver, _ = await device.run([python, "-c", _DRIVER])
        command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
        command += ["--find-links", folder, *requirements(extras, driver_cuda=driver.strip())]
        ended = await jobs.run(f"{folder}/extras-{backend}", command, on_line=on_line)
        if ended.code != 0:
            raise explained(f"{ended.out}\n" + "\n".join(ended.log), device, extras)
    return f"{folder}/venv/bin"


async def _there(device: Device, python: str) -> set[str]:
    modules = ["numpy", *(name for names in _MODULES.values() for name in names)]
    _, out, _ = await device.run([python, "-c", _PROBE, *modules])
    return set(json.loads(out or "[]"))


def explained(said: str, device: Device, extras: Sequence[str]) -> DeviceError:
    """What pip or venv said, as an error that says what to do on the device."""
    address = device.address
    missing = re.findall(r"No matching distribution found for (\S+)", said)
    if missing:
        return DeviceError(
            f"{address} lacks {listed(missing)}, and pip finds no index there that has it",
            hint=f"install it on the device (with a network: pip install '{DISTRIBUTION}[{','.join(extras)}]'; TensorRT comes "
            "with JetPack), or copy its wheel there and pip install that; then build again",
        )
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return DeviceError(
            f"{address} has no space left for the virtual environment",
            hint="free some space there, in ~/.cache/enginewright/lab/environments for one, and build again",
        )
    if "ensurepip is not available" in said or "No module named venv" in said or "No module named ensurepip" in said:
        return DeviceError(
            f"{address} cannot make virtual environments", hint="on the device: sudo apt install python3-venv"
        )
    lines = [line for line in said.splitlines() if line.strip()][-8:]
    return DeviceError(
        f"the virtual environment on {address} could not be made:\n" + "\n".join(f"  {line}" for line in lines),
        hint="mend that on the device, and build again",
    )
