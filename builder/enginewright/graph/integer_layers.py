"""The constants of the int8 layers in a network with Q/DQ nodes: read them, and write better ones in their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from enginewright.graph.rules import RULES, Kind, channel_axis
from enginewright.graph.topology import Topology, only_default_domain, read_anywhere

__all__ = ["IntegerLayer", "IntegerLayers"]

_LARGEST_BIAS = 2**30  # half of what int32 holds: the other half is for the sum of products that it is added to


@dataclass(frozen=True)
class IntegerLayer:
    """One product with int8 weights.

    `output` is what it gives, before its own quantizer. `axis` of the weight are its output channels. `scale`: the
    weight's, one number an output channel. `bias`: real numbers, one an output channel; None where it has none.
    """

    name: str
    output: str
    axis: int
    integers: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64] | None


class IntegerLayers:
    """The int8 layers of `model`, which it owns and changes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._view = Topology(model)  # constants are exchanged under their names, so the view stays true

    def all(self) -> tuple[IntegerLayer, ...]:
        """Every layer with constant int8 weights, in graph order, as it stands now."""
        return tuple(
            IntegerLayer(node.name, node.output[0], channel_axis(node), *self._weight(node), self._bias(node))
            for node in self._view.nodes
            if self._is_integer_layer(node)
        )

    def set_weight(self, layer: IntegerLayer, integers: npt.NDArray[np.int64]) -> None:
        """Exchange a layer's integers; its scale stays."""
        stored = self._stored_weight(self._node(layer))
        if self._view.initializers[stored].data_type == onnx.TensorProto.INT8:
            self._exchange(stored, integers.astype(np.int8))
        else:
            shape = [-1 if axis == layer.axis else 1 for axis in range(integers.ndim)]
            self._exchange(stored, integers.astype(np.float32) * layer.scale.astype(np.float32).reshape(shape))

    def set_bias(self, layer: IntegerLayer, bias: npt.NDArray[np.float64]) -> None:
        """Exchange a layer's bias, in real numbers; an integer bias is rounded to its scale."""
        node = self._node(layer)
        maker = self._view.producer(node.input[2])
        if maker is None:
            old, own = node.input[2], f"{node.name}/bias/float"  # other layers may share the old one
            if old != own:
                self._model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), own))
                node.input[2] = own
                if old not in read_anywhere(self._model.graph):
                    self._model.graph.initializer.remove(self._view.initializers[old])
                self._view = Topology(self._model)
            self._exchange(own, bias.astype(np.float32))
            return
        integers = np.rint(bias / self._real(maker.input[1]))
        self._exchange(maker.input[0], np.clip(integers, -_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int32))

    def _is_integer_layer(self, node: onnx.NodeProto) -> bool:
        if RULES.get(node.op_type) is not Kind.WEIGHTED or not only_default_domain(node):
            return False
        return self._dequantizes(node.input[0]) and bool(self._stored_weight(node))

    def _dequantizes(self, tensor: str) -> bool:
        maker = self._view.producer(tensor)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def _stored_weight(self, node: onnx.NodeProto) -> str:
        """The initializer behind a layer's weight: integers, or real numbers behind QuantizeLinear; empty if none."""
        tensor: str = node.input[1]
        for _ in range(2):
            maker = self._view.producer(tensor)
            if maker is not None and maker.op_type in ("DequantizeLinear", "QuantizeLinear"):
                tensor = maker.input[0]
        return tensor if tensor != node.input[1] and tensor in self._view.initializers else ""

    def _weight(self, node: onnx.NodeProto) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        name = self._stored_weight(node)
        stored, scale = self._real(name), self._real(self._view.consumers(name)[0].input[1])
        if self._view.initializers[name].data_type == onnx.TensorProto.INT8:
            return stored.astype(np.int64), scale
        shape = [-1 if axis == channel_axis(node) else 1 for axis in range(stored.ndim)]
        return np.rint(stored / scale.reshape(shape)).astype(np.int64), scale

    def _bias(self, node: onnx.NodeProto) -> npt.NDArray[np.float64] | None:
        if len(node.input) < 3 or not node.input[2]:
            return None
        if node.input[2] in self._view.initializers:
            return self._real(node.input[2]).reshape(-1)
        maker = self._view.producer(node.input[2])
        if maker is None or maker.input[0] not in self._view.initializers:
            return None
        return self._real(maker.input[0]) * self._real(maker.input[1])

    def _real(self, constant: str) -> npt.NDArray[np.float64]:
        return numpy_helper.to_array(self._view.initializers[constant]).astype(np.float64)

    def _node(self, layer: IntegerLayer) -> onnx.NodeProto:
        found = self._view.producer(layer.output)
        assert found is not None
        return found

    def _exchange(self, constant: str, value: npt.NDArray[np.generic]) -> None:
        old = self._view.initializers[constant]
        old.CopyFrom(numpy_helper.from_array(np.asarray(value, order="C").reshape(old.dims), constant))
