"""CUDA's memory, streams, events and graphs, as the engine needs them: through pycuda, or else through cuda.bindings.

Pointers and handles are whole numbers. A failed call raises EngineError.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from enginewright_runtime.errors import BackendMissing, EngineError
from enginewright_runtime.tensorrt.cuda_codes import BUSY, NO_DEVICE, OUT_OF_MEMORY, cuda_hint

__all__ = ["Bindings", "Cuda", "HostBuffer", "PyCuda", "open_cuda"]

_BLOCKING_NOTHING = 1  # CU_STREAM_NON_BLOCKING: the default stream of other libraries does not hold it up
_DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating


@dataclass(frozen=True)
class HostBuffer:
    """Page-locked memory: its bytes as an array, its address, and its address for the GPU where it is mapped."""

    array: npt.NDArray[np.uint8]
    address: int
    device_address: int
    owner: object


class Cuda(Protocol):
    """The first GPU, in its primary context, which TensorRT uses too."""

    def enter(self) -> None:
        """Make the context current in this thread; again, it does nothing."""

    def new_stream(self) -> int:
        """A stream that waits for no other."""

    def device_memory(self, size: int) -> tuple[int, object]:
        """The address of `size` bytes on the GPU, and what keeps them alive."""

    def host_memory(self, size: int, *, mapped: bool) -> HostBuffer:
        """Page-locked memory; `mapped`: the GPU can read and write it in place."""

    def copy_in(self, device: int, host: HostBuffer, size: int, stream: int) -> None:
        """Copy to the GPU, in the stream's order."""

    def copy_out(self, host: HostBuffer, device: int, size: int, stream: int) -> None:
        """Copy from the GPU, in the stream's order."""

    def wait(self, stream: int) -> None:
        """Wait until the stream has done everything."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """A graph of what `enqueue` puts into the stream, ready to be launched."""

    def launch(self, graph: int, stream: int) -> None:
        """Put a graph into the stream."""

    def forget(self, graph: int) -> None:
        """Give back a graph that is launched no more."""

    def new_event(self) -> int:
        """A mark that can be put into a stream."""

    def record(self, event: int, stream: int) -> None:
        """Put a mark into the stream."""

    def elapsed_ns(self, first: int, second: int) -> int:
        """The time between two marks that the stream has passed, to the half microsecond that CUDA promises."""

    def free_bytes(self) -> int:
        """How much of the GPU's memory nobody holds now; on a GPU that shares the processor's, of that."""

    def free(self) -> None:
        """Give back the streams, the events, the graphs and the memory that came from here."""


def open_cuda() -> Cuda:
    """Through pycuda where it is installed, else through cuda.bindings. Raises BackendMissing."""
    reasons = []
    for module, adapter in (("pycuda.driver", PyCuda), ("cuda.bindings.driver", Bindings), ("cuda.cuda", Bindings)):
        try:
            driver = import_module(module)
        except Exception as error:  # an extension for another numpy or CUDA raises whatever it likes: it is told below
            reasons.append(f"{module}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            return adapter(driver)
    raise BackendMissing(
        f"neither pycuda nor cuda.bindings can be imported: {'; '.join(reasons)}",
        hint="pip install 'enginewright-runtime[cuda]'",
    )


class Bindings:
    """Through cuda.bindings, whose functions give the result behind an error code."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", 0)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._undo: list[tuple[str, Any]] = [("cuDevicePrimaryCtxRelease", self._device)]
        self._streams: dict[int, Any] = {}
        self._graphs: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._here = threading.local()
        self.enter()

    def enter(self) -> None:
        if not hasattr(self._here, "entered"):  # the number of a thread that has ended may be another's
            self._call("cuCtxSetCurrent", self._context)
            self._here.entered = True

    def new_stream(self) -> int:
        stream = self._call("cuStreamCreate", _BLOCKING_NOTHING)
        self._undo.append(("cuStreamDestroy", stream))
        self._streams[int(stream)] = stream
        return int(stream)

    def device_memory(self, size: int) -> tuple[int, object]:
        memory = self._call("cuMemAlloc", size)
        self._undo.append(("cuMemFree", memory))
        return int(memory), memory

    def host_memory(self, size: int, *, mapped: bool) -> HostBuffer:
        address = int(self._call("cuMemHostAlloc", size, _DEVICE_MAP if mapped else 0))
        self._undo.append(("cuMemFreeHost", address))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        device = int(self._call("cuMemHostGetDevicePointer", address, 0)) if mapped else 0
        return HostBuffer(array, address, device, None)

    def copy_in(self, device: int, host: HostBuffer, size: int, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", device, host.address, size, self._streams[stream])

    def copy_out(self, host: HostBuffer, device: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", host.address, device, size, self._streams[stream])

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", self._streams[stream])

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._streams[stream], mode)
        try:
            enqueue()
        except BaseException:
            with suppress(EngineError):  # what broke the capture is told, and not that it is broken
                self._call("cuStreamEndCapture", self._streams[stream])
            raise
        graph = self._call("cuStreamEndCapture", self._streams[stream])
        ready = self._call("cuGraphInstantiate", graph, 0)
        self._call("cuGraphDestroy", graph)
        self._undo.append(("cuGraphExecDestroy", ready))
        self._graphs[int(ready)] = ready
        return int(ready)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", self._graphs[graph], self._streams[stream])

    def forget(self, graph: int) -> None:
        ready = self._graphs.pop(graph)
        self._undo.remove(("cuGraphExecDestroy", ready))
        self._call("cuGraphExecDestroy", ready)

    def new_event(self) -> int:
        event = self._call("cuEventCreate", 0)
        self._undo.append(("cuEventDestroy", event))
        self._events[int(event)] = event
        return int(event)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", self._events[event], self._streams[stream])

    def elapsed_ns(self, first: int, second: int) -> int:
        return round(float(self._call("cuEventElapsedTime", self._events[first], self._events[second])) * 1e6)

    def free_bytes(self) -> int:
        self.enter()
        return int(self._call("cuMemGetInfo"))  # the first of two: the second is all there is

    def free(self) -> None:
        self.enter()
        while self._undo:
            name, what = self._undo.pop()
            self._call(name, what)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *found = getattr(self._driver, name)(*arguments)
        if int(code) != 0:
            raise _failed(name, int(code), str(getattr(code, "name", "")))
        return found[0] if found else None


class PyCuda:
    """Through pycuda. It has no graphs: these go through the driver's own library, which is `library` where it is loaded.

    pycuda has a stack of contexts for each thread, and ends the process where a thread ends with one on it. So ours is
    there only while pycuda makes something; what runs asks the driver alone which context is current.
    """

    def __init__(self, driver: Any, library: Any = None) -> None:
        self._driver = driver
        self._tried("init", driver.init)
        self._context = self._tried("Device", driver.Device, 0).retain_primary_context()
        self._streams: dict[int, Any] = {}
        self._kept: list[Any] = []
        self._library = library
        self._graphs: list[int] = []
        self._events: list[Any] = []
        self._here = threading.local()
        self._handle = ctypes.c_void_p()
        with self._on_the_stack():
            self._drive("cuCtxGetCurrent", ctypes.byref(self._handle))
        atexit.register(self.free)  # while pycuda is still there

    def enter(self) -> None:
        if not hasattr(self._here, "entered"):
            self._drive("cuCtxSetCurrent", self._handle)
            self._here.entered = True

    @contextmanager
    def _on_the_stack(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()  # which makes a context of the application current, where pycuda has one
            if self._handle:
                self._drive("cuCtxSetCurrent", self._handle)
                self._here.entered = True

    def new_stream(self) -> int:
        with self._on_the_stack():
            stream = self._tried("Stream", self._driver.Stream, _BLOCKING_NOTHING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def device_memory(self, size: int) -> tuple[int, object]:
        with self._on_the_stack():
            memory = self._tried("mem_alloc", self._driver.mem_alloc, size)
        self._kept.append(memory)
        return int(memory), memory

    def host_memory(self, size: int, *, mapped: bool) -> HostBuffer:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._on_the_stack():
            array = self._tried("pagelocked_empty", self._driver.pagelocked_empty, size, np.uint8, mem_flags=flags)
        device = int(array.base.get_device_pointer()) if mapped else 0
        return HostBuffer(array, int(array.ctypes.data), device, array.base)

    def copy_in(self, device: int, host: HostBuffer, size: int, stream: int) -> None:
        copy = self._driver.memcpy_htod_async
        self._tried("memcpy_htod_async", copy, device, host.array[:size], self._streams[stream])

    def copy_out(self, host: HostBuffer, device: int, size: int, stream: int) -> None:
        copy = self._driver.memcpy_dtoh_async
        self._tried("memcpy_dtoh_async", copy, host.array[:size], device, self._streams[stream])

    def wait(self, stream: int) -> None:
        self._tried("synchronize", self._streams[stream].synchronize)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._drive("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            with suppress(EngineError):  # what broke the capture is told, and not that it is broken
                self._drive("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
            raise
        self._drive("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        self._drive("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        self._drive("cuGraphDestroy", graph)
        self._graphs.append(int(ready.value or 0))
        return self._graphs[-1]

    def launch(self, graph: int, stream: int) -> None:
        self._drive("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def forget(self, graph: int) -> None:
        self._graphs.remove(graph)
        self._drive("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def new_event(self) -> int:
        with self._on_the_stack():
            self._events.append(self._tried("Event", self._driver.Event))
        return len(self._events) - 1

    def record(self, event: int, stream: int) -> None:
        self._tried("record", self._events[event].record, self._streams[stream])

    def elapsed_ns(self, first: int, second: int) -> int:
        return round(float(self._tried("time_since", self._events[second].time_since, self._events[first])) * 1e6)

    def free_bytes(self) -> int:
        self.enter()
        return int(self._tried("mem_get_info", self._driver.mem_get_info)[0])

    def free(self) -> None:
        atexit.unregister(self.free)
        self.enter()
        while self._graphs:
            self._drive("cuGraphExecDestroy", ctypes.c_void_p(self._graphs.pop()))
        while self._kept:
            self._kept.pop().free()
        self._events.clear()
        self._streams.clear()
        self._context.detach()

    def _tried(self, name: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except self._driver.Error as error:
            code = next((code for words, code in _CODES.items() if words in str(error)), 0)
            raise EngineError(f"CUDA: {name} failed: {error}", hint=cuda_hint(code)) from error

    def _drive(self, name: str, *arguments: Any) -> None:
        if self._library is None:
            self._library = ctypes.CDLL("libcuda.so.1")
        if (code := getattr(self._library, name)(*arguments)) != 0:
            raise _failed(name, code, "")


# pycuda's errors carry CUDA's words in place of its codes.
_CODES = {"out of memory": OUT_OF_MEMORY, "no CUDA-capable device": NO_DEVICE, "busy or unavailable": BUSY}


def _failed(name: str, code: int, word: str) -> EngineError:
    return EngineError(f"CUDA: {name} gives {code}{f' ({word})' if word else ''}", hint=cuda_hint(code))
