"""A network whose float32 tensors are float16: what a strongly typed TensorRT (11, and TensorRT-RTX) computes in float16.

There the types of the network decide, and no flag. Inputs and outputs stay as they are, with a Cast behind and before
them. Scales of Q/DQ pairs become float16 too, which ONNX allows from opset 19 on: a pair has one type, and a Cast between
a pair and its product would keep TensorRT from fusing them.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from enginewright.errors import DataError

__all__ = ["in_float16"]

_OPSET = 19  # from here on QuantizeLinear and DequantizeLinear take float16
_SAME_SINCE = 18  # what changed between 18 and 19 changed no meaning: types and attributes were added
_LARGEST = float(np.finfo(np.float16).max)
# Inputs that are float32 by the operator's definition, by index.
_FLOAT32_INPUTS = {"Resize": (1, 2)}
_UNKNOWN = frozenset({"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})


def in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with float16 inside. Raises DataError where a number does not fit, or an operator is not known."""
    network = _at_opset_19(model)
    graph = network.graph
    del graph.value_info[:]  # types that no longer hold; they are inferred
    kept = _read_as_float32(graph.node)
    for node in graph.node:
        if node.op_type in _UNKNOWN or any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute):
            raise DataError(f"the operator {node.op_type} of '{node.name}' is not made float16")
        _retype_attributes(node)
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            graph.initializer[index].CopyFrom(_half(tensor))
    _cast_inputs(graph)
    _cast_outputs(graph)
    onnx.checker.check_model(network, full_check=True)
    return network


def _at_opset_19(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next((found.version for found in model.opset_import if found.domain in ("", "ai.onnx")), 0)
    if version < _SAME_SINCE:
        return version_converter.convert_version(model, _OPSET)
    network = onnx.ModelProto()
    network.CopyFrom(model)
    for found in network.opset_import:
        if found.domain in ("", "ai.onnx"):
            found.version = max(version, _OPSET)
    network.ir_version = max(network.ir_version, 9)  # the first that has opset 19
    return network


def _read_as_float32(nodes: Iterable[NodeProto]) -> set[str]:
    return {
        node.input[index]
        for node in nodes
        for index in _FLOAT32_INPUTS.get(node.op_type, ())
        if index < len(node.input) and node.input[index]
    }


def _retype_attributes(node: NodeProto) -> None:
    """Constants, and casts to float32, become float16."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.name == "value_float":
            tensor = numpy_helper.from_array(np.array(attribute.f, np.float32), node.output[0])
            attribute.CopyFrom(helper.make_attribute("value", _half(tensor)))


def _half(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST:
        raise DataError(f"the constant '{tensor.name}' holds {largest:.3g}, and float16 ends at {_LARGEST:.0f}")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _cast_inputs(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    casts = []
    for value in graph.input:
        if value.name not in constants and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            half = f"{value.name}/float16"
            for node in graph.node:
                _rename(node.input, value.name, half)
            casts.append(
                helper.make_node("Cast", [value.name], [half], name=f"{value.name}/to_float16", to=TensorProto.FLOAT16)
            )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _cast_outputs(graph: onnx.GraphProto) -> None:
    casts = []
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            half = f"{value.name}/float16"
            for node in graph.node:
                _rename(node.input, value.name, half)
                _rename(node.output, value.name, half)
            casts.append(
                helper.make_node("Cast", [half], [value.name], name=f"{value.name}/to_float32", to=TensorProto.FLOAT)
            )
    graph.node.extend(casts)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
