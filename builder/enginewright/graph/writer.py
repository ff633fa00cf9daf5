"""Write Q/DQ nodes into a network where a `Placement` wants them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from enginewright.errors import DataError
from enginewright.graph.dialects import Dialect
from enginewright.graph.integers import IntegerWeights, Quantizer, integer_weights, quantizer
from enginewright.graph.placement import Placement
from enginewright.graph.ranges import Scales
from enginewright.graph.rules import Kind, Weights, kind, weights_of
from enginewright.graph.topology import Topology, read_anywhere

__all__ = ["write"]


def write(network: onnx.ModelProto, placement: Placement, scales: Scales, dialect: Dialect) -> onnx.ModelProto:
    """A copy of a network in normal form with the pairs of `placement`. Raises DataError if a range is missing."""
    result = onnx.ModelProto()
    result.CopyFrom(network)
    _Writer(result, placement, _quantizers(placement, scales, dialect), dialect).write()
    return result


def _quantizers(placement: Placement, scales: Scales, dialect: Dialect) -> dict[str, Quantizer]:
    """The quantizer of each tensor with a pair: one for a group, which covers the union of its tensors' ranges."""
    groups: dict[str, list[str]] = {}
    for tensor, group in placement.range_of.items():
        groups.setdefault(group, []).append(tensor)
    found: dict[str, Quantizer] = {}
    for members in groups.values():
        known = [tensor for tensor in members if tensor in placement.calibrated] or members
        range_ = scales.range(known[0])
        for tensor in known[1:]:
            range_ = range_.union(scales.range(tensor))
        found.update(dict.fromkeys(members, quantizer(range_, dialect)))
    return found


class _Writer:
    """Writes into `model`, which it owns. A new name is an old one and a word behind a slash."""

    def __init__(
        self, model: onnx.ModelProto, placement: Placement, quantizers: dict[str, Quantizer], dialect: Dialect
    ) -> None:
        self.graph = model.graph
        self.view = Topology(model)
        self.placement = placement
        self.quantizers = quantizers
        self.dialect = dialect
        self.quantized = frozenset(placement.quantized)
        self.nodes: list[onnx.NodeProto] = []
        self.written: set[str] = set()

    def write(self) -> None:
        weights = {
            node.name: found
            for node in self.view.nodes
            if node.name in self.quantized
            and kind(node, self.view) is Kind.WEIGHTED
            and (found := weights_of(node, self.view)) is not None
        }
        for tensor in self.view.inputs:
            if tensor in self.quantizers:
                self._pair(tensor, source=tensor, result=f"{tensor}/dequantized")
        for node in self.view.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self._read_pairs(copy)
            if node.name in weights:
                self._integer_weights(copy, weights[node.name], self.quantizers[node.input[0]])
            self.nodes.append(copy)
            for index, tensor in enumerate(node.output):
                if tensor in self.quantizers:
                    self._pair_behind(copy, index, tensor)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused()

    def _read_pairs(self, node: onnx.NodeProto) -> None:
        for index, tensor in enumerate(node.input):
            wanted = tensor in self.quantizers if node.name in self.quantized else tensor in self.placement.replaced
            if wanted and not self._keeps_name_behind_pair(tensor):
                node.input[index] = f"{tensor}/dequantized"

    def _pair_behind(self, node: onnx.NodeProto, index: int, tensor: str) -> None:
        if self._keeps_name_behind_pair(tensor):
            node.output[index] = f"{tensor}/float"
            self._pair(tensor, source=f"{tensor}/float", result=tensor)
        else:
            self._pair(tensor, source=tensor, result=f"{tensor}/dequantized")

    def _keeps_name_behind_pair(self, tensor: str) -> bool:
        """Whether a pair stands on an output of the network: then the name is that of the pair's result."""
        return tensor in self.placement.replaced and tensor in self.view.outputs

    def _pair(self, tensor: str, *, source: str, result: str) -> None:
        chosen = self.quantizers[tensor]
        group = self.placement.range_of[tensor]
        scale = self._constant(f"{group}/scale", np.array(chosen.scale, np.float32))
        zero_point = self._constant(f"{group}/zero_point", np.array(chosen.zero_point, self.dialect.activation))
        integers = f"{tensor}/quantized"
        self.nodes.append(
            helper.make_node("QuantizeLinear", [source, scale, zero_point], [integers], name=f"{tensor}/quantize")
        )
        self.nodes.append(
            helper.make_node("DequantizeLinear", [integers, scale, zero_point], [result], name=f"{tensor}/dequantize")
        )

    def _integer_weights(self, node: onnx.NodeProto, weights: Weights, source: Quantizer) -> None:
        integers = integer_weights(weights, source.scale, self.dialect)
        base = f"{node.name}/weight"
        scale = self._constant(f"{base}/scale", integers.scale)
        zero_point = self._constant(f"{base}/zero_point", np.zeros_like(integers.scale, np.int8))
        if self.dialect.weights_as == "int8":
            stored = self._constant(f"{base}/quantized", integers.weight)
        else:
            # The float weights stand on the integers already, so that every parser rounds them to the same ones.
            real = self._constant(f"{base}/float", _real(integers, weights.axis))
            stored = f"{base}/quantized"
            quantize = helper.make_node(
                "QuantizeLinear", [real, scale, zero_point], [stored], name=f"{base}/quantize", axis=weights.axis
            )
            self.nodes.append(quantize)
        self._dequantize(base, stored, scale, zero_point, weights.axis)
        node.input[1] = f"{base}/dequantized"
        if integers.bias is not None:
            base = f"{node.name}/bias"
            product = (np.float32(source.scale) * integers.scale).astype(np.float32)
            scale = self._constant(f"{base}/scale", product)
            zero_point = self._constant(f"{base}/zero_point", np.zeros_like(product, np.int32))
            self._dequantize(base, self._constant(f"{base}/quantized", integers.bias), scale, zero_point, 0)
            node.input[2] = f"{base}/dequantized"

    def _dequantize(self, base: str, stored: str, scale: str, zero_point: str, axis: int) -> None:
        result = f"{base}/dequantized"
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [stored, scale, zero_point], [result], name=f"{base}/dequantize", axis=axis
            )
        )

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        if name not in self.written:  # tensors of one group share theirs
            if name in self.view.initializers:
                raise DataError(
                    f"the network has a constant '{name}' already", hint="rename it: quantize needs that name"
                )
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
            self.written.add(name)
        return name

    def _drop_unused(self) -> None:
        used = set(read_anywhere(self.graph))
        for tensor in list(self.graph.initializer):
            if tensor.name not in used:
                self.graph.initializer.remove(tensor)


def _real(integers: IntegerWeights, axis: int) -> npt.NDArray[np.float32]:
    shape = [1] * integers.weight.ndim
    shape[axis] = len(integers.scale)
    return integers.weight.astype(np.float32) * integers.scale.reshape(shape)
