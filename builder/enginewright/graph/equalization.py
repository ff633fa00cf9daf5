"""Even out the weights of neighbouring layers, channel by channel, without changing what the network computes.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721), section 4.1,
and Meller et al., "Same, Same But Different" (arXiv 1902.01917): a rectifier lets a positive factor through, so a channel
that one layer makes smaller and the next one makes larger again stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from enginewright.graph.normal_form import normal_form
from enginewright.graph.rules import Kind, Weights, channel_axis, kind, weights_of
from enginewright.graph.topology import Topology, attributes, only_default_domain

__all__ = ["Pair", "equalizable_pairs", "equalized"]

Real = npt.NDArray[np.float64]

# Operators f with f(s x) = s f(x) for every positive s, channel by channel.
_ELEMENTWISE = frozenset({"Relu", "LeakyRelu", "Clip"})
_SPATIAL = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_FLATTENING = frozenset({"Flatten", "Reshape", "Squeeze"})
_MATRIX_PRODUCTS = frozenset({"Gemm", "MatMul"})
_MOST_ROUNDS = 50
_SETTLED = 1e-3  # the largest change of a factor, as a share, with which no further round is worth it


@dataclass(frozen=True)
class Pair:
    """Two layers, by their nodes' names, of which only the second reads what the first makes."""

    first: str
    second: str


def equalizable_pairs(network: onnx.ModelProto) -> tuple[Pair, ...]:
    """The pairs of layers of a network in normal form that share channels which nothing else sees, in graph order.

    Between the two stand only operators that let a positive factor through: no upper bound (Clip to 6), no branch, no
    sum, no output of the network.
    """
    view = Topology(network)
    readers: dict[str, int] = {}
    for node in view.nodes:
        for name in {*node.input} - {""}:
            readers[name] = readers.get(name, 0) + 1
    own = {
        node.name: node
        for node in view.nodes
        if kind(node, view) is Kind.WEIGHTED
        and weights_of(node, view) is not None
        and all(readers[name] == 1 and name not in view.outputs for name in node.input[1:] if name)
    }
    pairs = ((node, _reader(node, view)) for node in own.values())
    return tuple(
        Pair(first.name, second.name)
        for first, second in pairs
        if second is not None and second.name in own and _share_channels(first, second, view)
    )


def equalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float network, in normal form, in which each channel between two layers of `equalizable_pairs` has as
    large weights before it as behind it. What the network computes stays the same, up to rounding in float32.

    With r1 and r2 the largest weights of a channel before and behind, s = sqrt(r1 / r2) divides the former (and the
    bias) and multiplies the latter; layers in a row are taken in turns until the factors settle. No bias grows beyond
    the largest that its layer had: a channel of small weights and a large bias would otherwise give one large constant,
    and its range would leave few integers for the others.
    """
    result = normal_form(model)
    view = Topology(result)
    nodes = {node.name: node for node in view.nodes}
    pairs = equalizable_pairs(result)
    constants = {
        name: found
        for pair in pairs
        for name in (pair.first, pair.second)
        if (found := weights_of(nodes[name], view)) is not None
    }
    layers = {name: _Layer(nodes[name], found) for name, found in constants.items()}
    for _ in range(_MOST_ROUNDS):
        changes = [_equalize(layers[pair.first], layers[pair.second]) for pair in pairs]
        if max(changes, default=0.0) < _SETTLED:
            break
    for name, layer in layers.items():
        layer.write(view.initializers, constants[name])
    return result


class _Layer:
    """The constants of one layer, in float64 while they change."""

    def __init__(self, node: onnx.NodeProto, weights: Weights) -> None:
        self.weight: Real = weights.weight.astype(np.float64)
        self.bias: Real | None = None if weights.bias is None else weights.bias.astype(np.float64)
        group = attributes(node).get("group", 1)
        self._groups = group if node.op_type == "Conv" and isinstance(group, int) else 1
        self._output_axis = channel_axis(node)
        self._largest_bias = 0.0 if self.bias is None else float(np.abs(self.bias).max(initial=0.0))

    def largest_made(self) -> Real:
        """The largest weight of each output channel."""
        return _largest(self.weight, self._output_axis)

    def largest_read(self) -> Real:
        """The largest weight on each input channel."""
        return _largest(self._by_input(), 1 if self._groups > 1 else 1 - self._output_axis)

    def bias_floor(self) -> Real:
        """What each output channel may be divided by without its bias growing beyond the largest."""
        if self.bias is None or self._largest_bias == 0.0:
            return np.zeros(self.weight.shape[self._output_axis])
        return np.abs(self.bias).reshape(-1) / self._largest_bias

    def divide_made(self, factors: Real) -> None:
        self.weight = self.weight / factors.reshape(_along(self._output_axis, self.weight.ndim))
        if self.bias is not None:
            self.bias = self.bias / factors.reshape(self.bias.shape)

    def multiply_read(self, factors: Real) -> None:
        if self._groups == 1:
            self.weight = self.weight * factors.reshape(_along(1 - self._output_axis, self.weight.ndim))
            return
        # The outputs of a group read the inputs of that group alone.
        shape = (self._groups, 1, -1, *(1 for _ in self.weight.shape[2:]))
        grouped = self.weight.reshape(self._groups, -1, *self.weight.shape[1:])
        self.weight = (grouped * factors.reshape(shape)).reshape(self.weight.shape)

    def write(self, initializers: Mapping[str, onnx.TensorProto], names: Weights) -> None:
        for name, value in ((names.weight_name, self.weight), (names.bias_name, self.bias)):
            if value is not None:
                initializers[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))

    def _by_input(self) -> Real:
        """The weight with all input channels along one axis: of a convolution in groups, (outputs of a group, inputs,
        ...).
        """
        if self._groups == 1:
            return self.weight
        grouped = self.weight.reshape(self._groups, -1, *self.weight.shape[1:])
        outputs = grouped.shape[1]
        return np.moveaxis(grouped, 0, 1).reshape(outputs, -1, *self.weight.shape[2:])


def _equalize(first: _Layer, second: _Layer) -> float:
    """Move one factor for each channel from the first layer to the second; returns the largest change, as a share."""
    made, read = first.largest_made(), second.largest_read()
    alive = (made > 0.0) & (read > 0.0)  # a channel that is never made or never read has nothing to even out
    factors = np.ones_like(made)
    factors[alive] = np.maximum(np.sqrt(made[alive] / read[alive]), first.bias_floor()[alive])
    first.divide_made(factors)
    second.multiply_read(factors)
    return float(np.abs(np.log(factors)).max(initial=0.0))


def _reader(node: onnx.NodeProto, view: Topology) -> onnx.NodeProto | None:
    """The layer that alone reads what `node` makes, through operators that let a positive factor through."""
    tensor = node.output[0]
    while True:
        readers = view.consumers(tensor)
        if len(readers) != 1 or tensor in view.outputs:
            return None
        reader = readers[0]
        if list(reader.input).count(tensor) != 1 or reader.input[0] != tensor:
            return None
        if kind(reader, view) is Kind.WEIGHTED:
            return reader
        if not _lets_factors_through(reader, view, matrix=node.op_type in _MATRIX_PRODUCTS):
            return None
        tensor = reader.output[0]


def _lets_factors_through(node: onnx.NodeProto, view: Topology, *, matrix: bool) -> bool:
    """`matrix`: the channels lie along the last axis, where pooling would mix them and reshaping move them."""
    if not only_default_domain(node) or len([name for name in node.output if name]) > 1:
        return False
    if node.op_type == "Clip":
        return _only_rectifies(node, view)
    if node.op_type in _ELEMENTWISE:
        return True
    if matrix:
        return False
    if node.op_type in _FLATTENING:
        before, after = view.shape(node.input[0]), view.shape(node.output[0])
        return len(after) == 2 and before[:2] == after  # what lies behind the channels is one position
    return node.op_type in _SPATIAL


def _only_rectifies(node: onnx.NodeProto, view: Topology) -> bool:
    """Whether a Clip is max(x, 0): a bound other than zero does not move with a factor."""
    low = view.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    bounded = len(node.input) > 2 and bool(node.input[2])
    return not bounded and low is not None and low.size == 1 and float(low.ravel()[0]) == 0.0


def _share_channels(first: onnx.NodeProto, second: onnx.NodeProto, view: Topology) -> bool:
    """Whether the output channels of the one are the input channels of the other, one to one."""
    if any(attributes(node).get("group", 1) != 1 for node in (first, second) if node.op_type == "ConvTranspose"):
        return False
    if any(attributes(node).get("transA", 0) for node in (first, second)):
        return False
    rank = len(view.shape(second.input[0]))
    if second.op_type in _MATRIX_PRODUCTS and first.op_type not in _MATRIX_PRODUCTS and rank != 2:
        return False  # a matrix product reads the last axis, and the channels of a convolution lie along the second
    if second.op_type not in _MATRIX_PRODUCTS and first.op_type in _MATRIX_PRODUCTS:
        return False
    axis = -1 if first.op_type in _MATRIX_PRODUCTS else 1
    made, read = view.shape(first.output[0]), view.shape(second.input[0])
    return made[axis] == read[-1 if second.op_type in _MATRIX_PRODUCTS else 1]


def _largest(weight: Real, axis: int) -> Real:
    others: Sequence[int] = [other for other in range(weight.ndim) if other != axis]
    result: Real = np.abs(weight).max(axis=tuple(others), initial=0.0)
    return result


def _along(axis: int, rank: int) -> list[int]:
    return [-1 if other == axis else 1 for other in range(rank)]
