"""An engine of TensorRT that is open: its memory is taken once, and an inference takes none.

The named tensors (set_input_shape, set_tensor_address, execute_async_v3) are there from 8.5 to 11.
"""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from enginewright_runtime.backends.protocol import Array
from enginewright_runtime.errors import EngineError
from enginewright_runtime.manifest import TensorSpec
from enginewright_runtime.sysfs import read_resident_bytes
from enginewright_runtime.tensorrt.cuda import Cuda, HostBuffer, open_cuda
from enginewright_runtime.tensorrt.device import Device
from enginewright_runtime.tensorrt.engine_layers import EngineLayer, layers_from_inspector
from enginewright_runtime.tensorrt.library import Library
from enginewright_runtime.tensorrt.log import Known, failure, new_log
from enginewright_runtime.tensorrt.settings import Settings

__all__ = ["TensorRTEngine", "open_engine"]

Shape: TypeAlias = "tuple[int, ...]"
_Graphs: TypeAlias = "dict[str, int]"  # by the part of an inference
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass
class _Tensor:
    """One input or output: its memory on both sides, and the shape that it has now."""

    spec: TensorSpec
    dtype: Any
    host: HostBuffer
    device: int
    least: Shape = ()
    most: Shape = ()
    shape: Shape = ()
    view: Any = None  # of `host`, in `shape`
    size: int = 0

    def reshape(self, shape: Shape) -> None:
        self.shape, self.size = shape, prod(shape) * self.dtype.itemsize
        self.view = self.host.array[: self.size].view(self.dtype).reshape(shape)


@dataclass(frozen=True)
class _Memory:
    """Bytes: free on the GPU, and resident in this process."""

    free: int
    resident: int

    @classmethod
    def now(cls, cuda: Cuda) -> _Memory:
        return cls(cuda.free_bytes(), read_resident_bytes(os.getpid()) or 0)


def open_engine(library: Library, engine: bytes, settings: Settings, device: Device) -> TensorRTEngine:
    """Deserialize an engine that was verified. Raises EngineError with TensorRT's own words."""
    cuda = open_cuda()
    try:
        before = _Memory.now(cuda)
        parts = _deserialized(library, engine, settings, device)
        return TensorRTEngine(library, cuda, parts, settings, before, in_place=device.integrated)
    except BaseException:
        cuda.free()  # a process that goes on has its memory back
        raise


def _deserialized(library: Library, engine: bytes, settings: Settings, device: Device) -> tuple[Any, Any, Any, Any]:
    """The log, the runtime, the engine and its execution context."""
    log = new_log(library, Known(driver_cuda=device.driver_cuda))
    try:
        runtime = library.trt.Runtime(log.logger)
    except (TypeError, RuntimeError):  # what the bindings make of a runtime that TensorRT could not create
        runtime = None
    if runtime is None:
        raise failure(library, log, "could not create its runtime")
    if settings.dla_core is not None:
        runtime.DLA_core = settings.dla_core
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise failure(library, log, "could not deserialize the engine")
    context = loaded.create_execution_context()
    if context is None:
        raise failure(library, log, "could not create an execution context")
    return log, runtime, loaded, context


def _fitting(shape: Shape, tensor: _Tensor) -> str:
    """What to do with an input whose shape the engine does not take."""
    if shape and tensor.most and shape[1:] == tensor.most[1:] and shape[0] > tensor.most[0]:
        return f"split the samples: {tensor.most[0]} at a time (enginewright-runtime run --batch {tensor.most[0]})"
    return "give it inputs of these sizes, or build it for others: the recipe's model.inputs has them"


class TensorRTEngine:
    """See OpenEngine. One inference runs at a time; several engines may be open on one GPU, each with its own stream.

    `in_place`: the GPU shares the processor's memory and works on the page-locked buffers themselves.
    """

    def __init__(
        self,
        library: Library,
        cuda: Cuda,
        parts: tuple[Any, Any, Any, Any],
        settings: Settings,
        before: _Memory,
        *,
        in_place: bool,
    ) -> None:
        self._library, self._cuda, self._in_place = library, cuda, in_place
        self._before = before
        self._log, self._runtime, self._engine, self._context = parts
        self._graphs: _Graphs | None = {} if settings.cuda_graph else None
        self._lock = threading.Lock()
        self._stream = cuda.new_stream()
        self._marks: list[int] = []
        self._profiler: Any = None  # TensorRT does not keep it alive
        self._inputs: list[_Tensor] = []
        self._outputs: list[_Tensor] = []
        self._take_memory()
        self.inputs = tuple(tensor.spec for tensor in self._inputs)
        self.outputs = tuple(tensor.spec for tensor in self._outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; see OpenEngine. The outputs are the caller's own."""
        with self._lock:
            self._infer(inputs)
            return {tensor.spec.name: tensor.view.copy() for tensor in self._outputs}

    def run_into(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """One inference into arrays of the caller: nothing is allocated. Raises EngineError where one has another shape."""
        with self._lock:
            self._infer(inputs)
            for tensor in self._outputs:
                into = outputs[tensor.spec.name]
                if into.shape != tensor.shape or into.dtype != tensor.dtype:
                    raise EngineError(
                        f"the output {tensor.spec.name!r} is {tensor.dtype} {list(tensor.shape)}, "
                        f"and the array for it {into.dtype} {list(into.shape)}"
                    )
                np.copyto(into, tensor.view)

    @property
    def captures(self) -> bool:
        """Whether inferences are captured into CUDA graphs."""
        return self._graphs is not None

    @property
    def transfers(self) -> bool:
        """Whether inputs and outputs are copied to the GPU and back."""
        return not self._in_place

    def time_once(self, inputs: Mapping[str, Array]) -> tuple[int, int, int, int]:
        """One inference timed on the GPU: nanoseconds of the copies in, the computation, the copies out, and of the processor
        while it enqueued the computation. Where the engine has graphs, the computation is one, and the copies are not in it.
        """
        with self._lock:
            self._ready(inputs)
            if not self._marks:
                self._marks = [self._cuda.new_event() for _ in range(4)]
            started, entered, left, ended = self._marks
            compute = self._compute
            if self._graphs is not None:
                compute = partial(self._cuda.launch, self._graph(self._graphs, "compute", self._compute), self._stream)
            self._cuda.record(started, self._stream)
            self._copy_in()
            self._cuda.record(entered, self._stream)
            before = time.perf_counter_ns()
            compute()
            enqueued = time.perf_counter_ns() - before
            self._cuda.record(left, self._stream)
            self._copy_out()
            self._cuda.record(ended, self._stream)
            self._cuda.wait(self._stream)
            spans = itertools.pairwise(self._marks)
            return (*(self._cuda.elapsed_ns(first, second) for first, second in spans), enqueued)  # type: ignore[return-value]

    def time_layers(self, inputs: Mapping[str, Array], *, runs: int) -> dict[str, tuple[int, ...]]:
        """The median time of each layer over `runs` inferences, in nanoseconds, by the layer's name. Layers that share a name
        each have theirs, in the order in which they run.

        TensorRT's profiler waits for each layer, so their sum is more than an inference takes; it stays attached.
        """
        taken: list[dict[str, list[int]]] = []  # one inference after the other

        class Profiler(self._library.trt.IProfiler):  # type: ignore[misc, name-defined]  # the bindings carry no types
            def report_layer_time(self, layer_name: str, ms: float) -> None:
                taken[-1].setdefault(str(layer_name), []).append(round(ms * 1e6))

        with self._lock:
            self._profiler = self._context.profiler = Profiler()
            for _ in range(runs + 1):
                taken.append({})
                self._ready(inputs)
                self._enqueue()
                self._cuda.wait(self._stream)
        # The first run of a shape sets up what later ones use.
        counted = taken[1:]
        return {
            name: tuple(
                int(statistics.median(each)) for each in zip(*(run.get(name, ()) for run in counted), strict=False)
            )
            for name in taken[0]
        }

    def layers(self) -> tuple[EngineLayer, ...]:
        """What TensorRT made of the network. Raises EngineError where it does not tell."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        kind = self._library.member("LayerInformationFormat", "JSON")
        try:
            return layers_from_inspector(inspector.get_engine_information(kind))
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{self._library.kind.title} does not describe the engine's layers: {error}") from error

    def gpu_bytes(self) -> int:
        """What opening it and its inferences so far took of the GPU's memory, by the driver's own count; see OpenEngine.

        Others who take or free memory there meanwhile are counted too. A GPU that shares the processor's memory counts what
        the process has resident: that is left out.
        """
        now = _Memory.now(self._cuda)
        grown = now.resident - self._before.resident if self._in_place else 0
        return max(0, self._before.free - now.free - grown)

    def close(self) -> None:
        """Free the engine and its memory; see OpenEngine."""
        with self._lock:
            if self._engine is None:
                return
            # In this order: TensorRT's objects use the stream and the memory until they are gone.
            self._context = None
            self._engine = None
            self._runtime = None
            for tensor in (*self._inputs, *self._outputs):
                tensor.view = None
            self._cuda.free()

    def _infer(self, inputs: Mapping[str, Array]) -> None:
        self._ready(inputs)
        if self._graphs is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph(self._graphs, "all", self._enqueue), self._stream)
        self._cuda.wait(self._stream)

    def _ready(self, inputs: Mapping[str, Array]) -> None:
        """The inputs in page-locked memory, and their shapes told to TensorRT."""
        if self._engine is None:
            raise EngineError("the engine is closed")
        self._cuda.enter()
        for tensor in self._inputs:
            array = inputs[tensor.spec.name]
            if array.shape != tensor.shape:
                self._take_shapes(inputs)
            np.copyto(tensor.view, array)

    def _enqueue(self) -> None:
        self._copy_in()
        self._compute()
        self._copy_out()

    def _copy_in(self) -> None:
        if not self._in_place:
            for tensor in self._inputs:
                self._cuda.copy_in(tensor.device, tensor.host, tensor.size, self._stream)

    def _compute(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise failure(self._library, self._log, "could not run the engine")

    def _copy_out(self) -> None:
        if not self._in_place:
            for tensor in self._outputs:
                self._cuda.copy_out(tensor.host, tensor.device, tensor.size, self._stream)

    def _graph(self, graphs: _Graphs, part: str, enqueue: Callable[[], None]) -> int:
        """The graph of a part of an inference for the shapes of now. The first inference of a shape runs before it is captured,
        as TensorRT asks.
        """
        if part not in graphs:
            self._enqueue()
            self._cuda.wait(self._stream)
            graphs[part] = self._cuda.capture(self._stream, enqueue)
        return graphs[part]

    def _take_shapes(self, inputs: Mapping[str, Array]) -> None:
        """Tell TensorRT the shapes of all inputs, and learn those of the outputs."""
        for tensor in self._inputs:
            shape = tuple(inputs[tensor.spec.name].shape)
            pairs = zip(tensor.least, shape, tensor.most, strict=False)
            if len(shape) != len(tensor.most) or not all(low <= size <= high for low, size, high in pairs):
                raise EngineError(
                    f"the input {tensor.spec.name!r} has the shape {list(shape)}, and the engine was built for "
                    f"{list(tensor.least)} to {list(tensor.most)}",
                    hint=_fitting(shape, tensor),
                )
        self._set_shapes({tensor.spec.name: tuple(inputs[tensor.spec.name].shape) for tensor in self._inputs})

    def _set_shapes(self, shapes: Mapping[str, Shape]) -> None:
        """A graph that was captured uses what the context had for the shapes of then: it goes with them."""
        while self._graphs:
            self._cuda.forget(self._graphs.popitem()[1])
        for tensor in self._inputs:
            if not self._context.set_input_shape(tensor.spec.name, shapes[tensor.spec.name]):
                raise failure(self._library, self._log, f"does not take the shape of the input {tensor.spec.name!r}")
            tensor.reshape(shapes[tensor.spec.name])
        for tensor in self._outputs:
            tensor.reshape(tuple(self._context.get_tensor_shape(tensor.spec.name)))

    def _take_memory(self) -> None:
        """Memory for the largest shapes, and the addresses of all tensors: they stay as long as the engine is open."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        reading = self._library.member("TensorIOMode", "INPUT")
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == reading]
        largest: dict[str, Shape] = {}
        for name in inputs:
            least, _, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))
            largest[name] = most
            self._inputs.append(self._tensor(name, most, least))
            if not self._context.set_input_shape(name, most):
                raise failure(self._library, self._log, f"does not take the largest shape of the input {name!r}")
        for name in names:
            if name not in largest:
                self._outputs.append(self._tensor(name, tuple(self._context.get_tensor_shape(name)), ()))
        self._set_shapes(largest)
        for tensor in (*self._inputs, *self._outputs):
            self._context.set_tensor_address(tensor.spec.name, tensor.device)

    def _tensor(self, name: str, most: Shape, least: Shape) -> _Tensor:
        if any(size < 0 for size in most):
            raise EngineError(f"the size of {name!r} depends on what the inputs hold, and such engines are not run")
        word = str(self._engine.get_tensor_dtype(name).name)
        if word not in _DTYPES:
            raise EngineError(f"{name!r} is a tensor of {word}, and only tensors of numbers are run")
        dtype = np.dtype(_DTYPES[word])
        size = max(1, prod(most) * dtype.itemsize)
        host = self._cuda.host_memory(size, mapped=self._in_place)
        device = host.device_address if self._in_place else self._cuda.device_memory(size)[0]
        free = tuple(size if size >= 0 else "?" for size in self._engine.get_tensor_shape(name))
        return _Tensor(TensorSpec(name, free, dtype.name), dtype, host, device, least, most)
