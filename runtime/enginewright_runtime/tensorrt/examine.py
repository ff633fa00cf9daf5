"""What only an engine on a GPU can tell: its layers with their times, and its times as trtexec takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginewright_runtime.backends.protocol import Array
from enginewright_runtime.canonical import canonical_bytes
from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt import gpu_time
from enginewright_runtime.tensorrt.engine import TensorRTEngine
from enginewright_runtime.tensorrt.engine_layers import EngineLayer, layers_to_json, with_times
from enginewright_runtime.tensorrt.gpu_time import GpuTimes

__all__ = ["RUNS", "Examined", "examine"]

RUNS = 50  # of which a layer's time is the median


@dataclass(frozen=True)
class Examined:
    """The layers, each with its time, and the times of whole inferences, all on the GPU. `undescribed`: why there are no
    layers.
    """

    layers: tuple[EngineLayer, ...]
    on_gpu: GpuTimes
    undescribed: str = ""

    def layers_file(self) -> bytes:
        return canonical_bytes(layers_to_json(self.layers, runs=RUNS))

    def times_file(self) -> bytes:
        return canonical_bytes(self.on_gpu.to_json())


def examine(engine: TensorRTEngine, inputs: Mapping[str, Array]) -> Examined:
    """Time an engine on `inputs`. The layers come last: the profiler stays attached, and slows what follows.

    An engine that runs is as good where its version tells of the layers otherwise than those before it: then there are none.
    """
    on_gpu = gpu_time.time_on_gpu(engine, inputs)
    try:
        layers = engine.layers()
    except EngineError as error:
        return Examined((), on_gpu, error.message)
    return Examined(with_times(layers, engine.time_layers(inputs, runs=RUNS)), on_gpu)
