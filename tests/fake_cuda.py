"""CUDA without a GPU, for tests: the functions of cuda.bindings and of pycuda on the processor's own memory.

Work of a stream is done at once. What is taken and given back is counted, so that a leak shows.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from enginewright_runtime.tensorrt.device import Device

ORIN = Device("Orin", "8.7", 16, 64 << 30, integrated=True, driver_cuda="12.6")
H200 = Device("NVIDIA H200", "9.0", 132, 141 << 30, integrated=False, driver_cuda="13.0")


class Code(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class FakeBindings:
    """The module cuda.bindings.driver. `limit_bytes` is the memory of its GPU, `refuses` the codes of calls that fail."""

    def __init__(self, *, limit_bytes: int = 1 << 30) -> None:
        self.limit_bytes = limit_bytes
        self.refuses: dict[str, Code] = {}
        self.calls: list[str] = []
        self.live: dict[int, Any] = {}
        self.on_gpu: set[int] = set()
        self.marked: list[int] = []
        self.recording: list[Callable[[], None]] | None = None
        self.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local")
        self._handles = iter(range(1, 1 << 20))

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cu"):
            raise AttributeError(name)
        answer = getattr(self, f"_{name}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name in self.refuses:
                return (self.refuses[name], None)
            try:
                found = answer(*arguments)
            except MemoryError:
                return (Code.CUDA_ERROR_OUT_OF_MEMORY, None)
            if isinstance(found, tuple):
                return (Code.CUDA_SUCCESS, *found)
            return (Code.CUDA_SUCCESS,) if found is None else (Code.CUDA_SUCCESS, found)

        return call

    def enqueue(self, work: Callable[[], None]) -> None:
        """Do it, or note it in the graph that is being captured."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def _handle(self, what: Any) -> int:
        handle = next(self._handles)
        self.live[handle] = what
        return handle

    def _take(self, size: int) -> int:
        if size > self.limit_bytes:
            raise MemoryError
        buffer = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(buffer)
        self.live[address] = buffer
        return address

    def _drop(self, handle: int) -> None:
        del self.live[handle]

    def _cuMemGetInfo(self) -> tuple[int, int]:
        taken = sum(ctypes.sizeof(self.live[address]) for address in self.on_gpu if address in self.live)
        return self.limit_bytes - taken, self.limit_bytes

    def _cuInit(self, flags: int) -> None: ...
    def _cuDeviceGet(self, index: int) -> int:
        return index

    def _cuDevicePrimaryCtxRetain(self, device: int) -> str:
        self.live[-1] = self.live.get(-1, 0) + 1  # the context is one, and each who retains it releases it
        return "context"

    def _cuDevicePrimaryCtxRelease(self, device: int) -> None:
        self.live[-1] -= 1
        if not self.live[-1]:
            self._drop(-1)

    def _cuCtxSetCurrent(self, context: str) -> None: ...
    def _cuStreamCreate(self, flags: int) -> int:
        return self._handle("stream")

    def _cuMemAlloc(self, size: int) -> int:
        address = self._take(size)
        self.on_gpu.add(address)
        return address

    def _cuMemHostAlloc(self, size: int, flags: int) -> int:
        return self._take(size)

    def _cuMemHostGetDevicePointer(self, address: int, flags: int) -> int:
        return address

    def _cuMemcpyHtoDAsync(self, device: int, host: int, size: int, stream: int) -> None:
        self.enqueue(lambda: ctypes.memmove(device, host, size) and None)

    def _cuMemcpyDtoHAsync(self, host: int, device: int, size: int, stream: int) -> None:
        self.enqueue(lambda: ctypes.memmove(host, device, size) and None)

    def _cuStreamSynchronize(self, stream: int) -> None: ...
    def _cuStreamBeginCapture(self, stream: int, mode: str) -> None:
        self.recording = []

    def _cuStreamEndCapture(self, stream: int) -> int:
        graph, self.recording = self.recording, None
        return self._handle(graph)

    def _cuGraphInstantiate(self, graph: int, flags: int) -> int:
        return self._handle(self.live[graph])

    def _cuGraphLaunch(self, graph: int, stream: int) -> None:
        for work in self.live[graph]:
            work()

    def _cuEventCreate(self, flags: int) -> int:
        return self._handle("event")

    def _cuEventRecord(self, event: int, stream: int) -> None:
        self.marked.append(event)

    def _cuEventElapsedTime(self, first: int, second: int) -> float:
        assert first in self.marked[-4:]
        assert second in self.marked[-4:]
        return 0.25 * (second - first)  # milliseconds

    _cuStreamDestroy = _cuMemFree = _cuMemFreeHost = _cuGraphDestroy = _cuGraphExecDestroy = _cuEventDestroy = _drop


class FakePyCuda:
    """The module pycuda.driver, as far as it is used without graphs."""

    Error = RuntimeError
    host_alloc_flags = SimpleNamespace(DEVICEMAP=2)

    def __init__(self, bindings: FakeBindings) -> None:
        self._bindings = bindings
        self.depth = 0

    def init(self) -> None: ...
    def on_the_stack(self) -> None:
        """What makes something wants a context on pycuda's own stack, of this thread."""
        assert self.depth == 1, "explicit_context_dependent failed: invalid device context"

    def Device(self, index: int) -> Any:
        def move(by: int) -> None:
            self.depth += by

        context = SimpleNamespace(push=lambda: move(1), pop=lambda: move(-1), detach=lambda: None)
        return SimpleNamespace(retain_primary_context=lambda: context)

    def Stream(self, flags: int) -> Any:
        self.on_the_stack()
        return SimpleNamespace(handle=7, synchronize=lambda: None)

    def Event(self) -> Any:
        self.on_the_stack()
        marks = self._bindings.marked

        def record(stream: Any) -> None:
            marks.append(id(event))

        event = SimpleNamespace(record=record, time_since=lambda other: 0.25)
        return event

    def mem_alloc(self, size: int) -> Any:
        self.on_the_stack()
        bindings = self._bindings
        try:
            address = bindings._cuMemAlloc(size)
        except MemoryError:
            raise self.Error("cuMemAlloc failed: out of memory") from None

        class Memory:
            def __int__(self) -> int:
                return address

            def free(self) -> None:
                bindings._drop(address)

        return Memory()

    def pagelocked_empty(self, size: int, dtype: type, mem_flags: int) -> Any:
        self.on_the_stack()
        array = np.empty(size, dtype)
        base = SimpleNamespace(get_device_pointer=lambda: array.ctypes.data)

        class Locked(np.ndarray):  # type: ignore[type-arg]  # its base is a property of its own
            @property
            def base(self) -> Any:  # type: ignore[override]
                return base

        return array.view(Locked)

    def mem_get_info(self) -> tuple[int, int]:
        return self._bindings._cuMemGetInfo()

    def memcpy_htod_async(self, device: int, host: Any, stream: Any) -> None:
        self._bindings.enqueue(lambda: ctypes.memmove(device, host.ctypes.data, host.nbytes) and None)

    def memcpy_dtoh_async(self, host: Any, device: int, stream: Any) -> None:
        self._bindings.enqueue(lambda: ctypes.memmove(host.ctypes.data, device, host.nbytes) and None)


class FakeDriver:
    """The library libcuda.so.1 as ctypes gives it, for what is asked of it directly: the device, and graphs.

    `cu_init` is the code that it starts with.
    """

    def __init__(self, bindings: FakeBindings, gpu: Device, *, cu_init: int = 0) -> None:
        self._bindings, self._gpu, self._cu_init = bindings, gpu, cu_init

    def cuInit(self, flags: int) -> int:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
        return self._cu_init or (Code.CUDA_ERROR_NO_DEVICE if hidden else 0)

    def cuDeviceGetCount(self, count: Any) -> int:
        return _put(count, 1)

    def cuDeviceGet(self, device: Any, index: int) -> int:
        return _put(device, index)

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:
        major, minor = map(int, self._gpu.compute_capability.split("."))
        known = {16: self._gpu.sm_count, 18: int(self._gpu.integrated), 75: major, 76: minor}
        return _put(value, known.get(number, 0))

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = self._gpu.name.encode()
        return 0

    def cuDeviceGetPCIBusId(self, bus: Any, size: int, device: Any) -> int:
        bus.value = b"0000:65:00.0"
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        return _put(size, self._gpu.memory_bytes)

    def cuDriverGetVersion(self, version: Any) -> int:
        major, minor = map(int, self._gpu.driver_cuda.split("."))
        return _put(version, major * 1000 + minor * 10)

    def cuCtxGetCurrent(self, context: Any) -> int:
        return _put(context, 0xC0)

    def cuCtxSetCurrent(self, context: Any) -> int:
        assert context.value == 0xC0
        self._bindings.calls.append("cuCtxSetCurrent")
        return 0

    def cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> int:
        self._bindings._cuStreamBeginCapture(stream.value, "")
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        return _put(graph, self._bindings._cuStreamEndCapture(stream.value))

    def cuGraphInstantiateWithFlags(self, ready: Any, graph: Any, flags: Any) -> int:
        return _put(ready, self._bindings._cuGraphInstantiate(graph.value, 0))

    def cuGraphLaunch(self, graph: Any, stream: Any) -> int:
        self._bindings._cuGraphLaunch(graph.value, stream.value)
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        self._bindings._drop(graph.value)
        return 0

    cuGraphExecDestroy = cuGraphDestroy


def _put(reference: Any, value: int) -> int:
    """What a function of the driver writes through a pointer that ctypes.byref made."""
    reference._obj.value = value
    return 0
