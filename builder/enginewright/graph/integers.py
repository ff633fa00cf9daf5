"""From real numbers to integers: the scale and zero point of a range, and the integer weights and bias of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginewright.graph.dialects import Dialect
from enginewright.graph.methods import Range
from enginewright.graph.rules import Weights
from enginewright.graph.topology import FloatArray

__all__ = ["IntegerWeights", "Quantizer", "integer_weights", "quantizer"]

# The smallest scale that is given out. Products of two of them are still normal float32 numbers, so neither rounds to
# zero nor becomes slow.
_SMALLEST_SCALE = 2.0**-60
_LARGEST_BIAS = 2**30  # half of what int32 holds: the other half is for the sum of products that it is added to


@dataclass(frozen=True)
class Quantizer:
    """real = (integer - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class IntegerWeights:
    """A layer's weights within the dialect's limit, one scale an output channel, and its bias where that is int32."""

    weight: npt.NDArray[np.int8]
    scale: FloatArray
    bias: npt.NDArray[np.int32] | None


def quantizer(range_: Range, dialect: Dialect) -> Quantizer:
    """The scale and zero point that cover a range in a dialect.

    Zero is always an integer, so that padding and rectifiers stay exact: a range that leaves zero out is widened to it.

    >>> from enginewright.graph.dialects import DIALECTS
    >>> quantizer(Range(0.0, 5.1), DIALECTS["onnxruntime-x86"])
    Quantizer(scale=0.019999999552965164, zero_point=0)
    >>> quantizer(Range(-1.0, 2.54), DIALECTS["tensorrt"])
    Quantizer(scale=0.019999999552965164, zero_point=0)
    """
    first, last = dialect.activation_limits
    low, high = min(range_.low, 0.0), max(range_.high, 0.0)
    if dialect.symmetric:
        return Quantizer(_scale(max(-low, high) / last), 0)
    scale = _scale((high - low) / (last - first))
    return Quantizer(scale, int(np.clip(round(first - low / scale), first, last)))


def integer_weights(weights: Weights, input_scale: float, dialect: Dialect) -> IntegerWeights:
    """Round a layer's weights to integers, each output channel with the scale that its largest weight asks for.

    A channel of zeros takes the largest scale of the layer. Where the bias is an integer too, the scale of a channel
    with tiny weights and a large bias is raised until the bias fits: bias / (input scale x weight scale) must stay
    within int32, or it would wrap or saturate.
    """
    channels = weights.weight.shape[weights.axis]
    others = tuple(axis for axis in range(weights.weight.ndim) if axis != weights.axis)
    largest = np.abs(weights.weight).max(axis=others, initial=0.0).astype(np.float64)
    scale = largest / dialect.weight_limit
    scale[largest == 0.0] = scale.max(initial=0.0) or 1.0
    bias_scale_floor = np.zeros(channels)
    if weights.bias is not None and dialect.bias == "int32":
        bias_scale_floor = np.abs(weights.bias.astype(np.float64)).reshape(-1) / (input_scale * _LARGEST_BIAS)
    stored = np.maximum(np.maximum(scale, bias_scale_floor), _SMALLEST_SCALE).astype(np.float32)
    shape = [1] * weights.weight.ndim
    shape[weights.axis] = channels
    ratio = weights.weight.astype(np.float64) / stored.astype(np.float64).reshape(shape)
    limit = dialect.weight_limit
    integers = np.clip(np.rint(ratio), -limit, limit).astype(np.int8)
    bias = None
    if weights.bias is not None and dialect.bias == "int32":
        # The product is rounded to float32 first, because that is the scale that stands in the graph.
        product = (np.float32(input_scale) * stored).astype(np.float64)
        bias = np.rint(weights.bias.astype(np.float64).reshape(-1) / product).astype(np.int32)
    return IntegerWeights(integers, stored, bias)


def _scale(value: float) -> float:
    return float(np.float32(max(value, _SMALLEST_SCALE)))
