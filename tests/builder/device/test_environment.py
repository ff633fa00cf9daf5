"""The environment on the device: what is asked of pip, and what its refusals mean."""

from __future__ import annotations

import asyncio

import pytest
from tests.builder.device.lab import Lab

from enginewright.device.address import DeviceAddress
from enginewright.device.connection import Device
from enginewright.device.environment import explained, extras_for, make_environment, requirements
from enginewright.device.errors import DeviceError
from enginewright.device.job import Jobs, find_place

DEVICE = Device(DeviceAddress("orin-3"), say=print)


@pytest.mark.parametrize(
    ("backend", "there", "extras"),
    [
        ("onnxruntime", {"onnxruntime"}, ()),
        ("onnxruntime", set(), ("onnxruntime",)),
        ("tensorrt", {"tensorrt", "pycuda"}, ()),
        ("tensorrt", {"tensorrt", "cuda.bindings"}, ()),
        ("tensorrt", {"tensorrt"}, ("cuda",)),
        ("tensorrt_rtx", set(), ("tensorrt-rtx", "cuda")),
    ],
)
def test_only_what_the_device_lacks_is_installed(backend: str, there: set[str], extras: tuple[str, ...]) -> None:
    assert extras_for(backend, there) == extras


@pytest.mark.parametrize(
    ("extras", "driver_cuda", "asked"),
    [
        (("onnxruntime",), "12", ["enginewright-runtime[onnxruntime]"]),
        (("tensorrt", "cuda"), "13", ["enginewright-runtime[tensorrt,cuda]", "cuda-bindings==13.*"]),
        (("cuda",), "", ["enginewright-runtime[cuda]"]),  # no driver answers: compile says so later
        ((), "12", ["enginewright-runtime"]),
    ],
)
def test_cuda_bindings_are_those_of_the_driver(extras: tuple[str, ...], driver_cuda: str, asked: list[str]) -> None:
    assert requirements(extras, driver_cuda=driver_cuda) == asked


@pytest.mark.parametrize(
    ("said", "message", "fix"),
    [
        ("ERROR: No matching distribution found for onnxruntime>=1.21", "lacks onnxruntime>=1.21", "on the device"),
        ("OSError: [Errno 28] No space left on device", "no space left", "free some space"),
        ("The virtual environment ... because ensurepip is not available.", "virtual env", "apt install python3-venv"),
        ("a\nsomething else", "something else", "mend that"),
    ],
)
def test_what_pip_says_becomes_what_to_do(said: str, message: str, fix: str) -> None:
    error = explained(said, DEVICE, ("onnxruntime",))
    assert message in error.message
    assert fix in error.hint


def test_a_device_without_numpy_and_without_a_network_is_told_so(lab: Lab) -> None:
    async def make() -> None:
        async with Device(lab.address, say=print, waits_s=()) as device:
            place = await find_place(device)
            jobs = Jobs(device, place.root, say=print)
            await make_environment(device, place, "onnxruntime", jobs=jobs, on_line=print)

    with pytest.raises(DeviceError, match=r"lacks (numpy|onnxruntime)>=\S+, and pip finds no index") as failed:
        asyncio.run(make())
    assert "pip install 'enginewright-runtime[onnxruntime]'" in failed.value.hint
