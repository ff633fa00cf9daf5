"""What a compiler made of the network, as a report shows it: parsed and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginewright_runtime.tensorrt.engine_layers import EngineLayer

__all__ = ["EngineLayers", "GpuTiming", "Quantization", "QuantizerPair"]


@dataclass(frozen=True)
class QuantizerPair:
    """A QuantizeLinear and the DequantizeLinear behind it, by the names of their nodes.

    `before` is the node that makes what they round, empty at an input of the network; `after` are those that read it.
    `splits`: the pair stands between a product and its activation, which a compiler could fuse.
    """

    quantize: str
    dequantize: str
    before: str
    after: tuple[str, ...]
    splits: bool

    @property
    def nodes(self) -> tuple[str, str]:
        return self.quantize, self.dequantize


@dataclass(frozen=True)
class Quantization:
    """The nodes of a network that only quantize or dequantize, those of weights among them, and the pairs of activations."""

    nodes: frozenset[str] = frozenset()
    pairs: tuple[QuantizerPair, ...] = ()


@dataclass(frozen=True)
class EngineLayers:
    """The layers of an engine, and of the engine of the same network in float16 where there is one.

    `runs`: of how many inferences a layer's time is the median; 0 where none was timed. `wanted` are the nodes that the
    network's Q/DQ pairs ask int8 for. `floors_ns`: the least time of a node's operations on the target. `dla`: the engine
    was to run on a deep learning accelerator.
    """

    layers: tuple[EngineLayer, ...]
    float16: tuple[EngineLayer, ...] = ()
    runs: int = 0
    wanted: tuple[str, ...] = ()
    quantization: Quantization = Quantization()
    floors_ns: Mapping[str, float] = field(default_factory=dict)
    dla: bool = False


@dataclass(frozen=True)
class GpuTiming:
    """Times on the GPU of one process, by trtexec's method. `percentiles_ns`: trtexec's, of the computation.

    `copies_in_ns`, `copies_out_ns` and `enqueue_ns` are medians. `flags` are the method in words.
    """

    samples: int
    percentiles_ns: Mapping[str, float]
    copies_in_ns: float
    copies_out_ns: float
    enqueue_ns: float
    flags: tuple[str, ...]
    warnings: tuple[str, ...]
