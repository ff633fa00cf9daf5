"""The form in which the builder reads a network: the same function, in operators that backends have kernels for.

Exporters write one thing in several ways: torch exports global average pooling as ReduceMean, and a linear layer as
MatMul and Add. Backends fuse and quantize one of those ways. `normal_form` rewrites, keeps the names and values of
all tensors that survive, and applied twice changes nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import helper

from enginewright.errors import DataError
from enginewright.graph.topology import Topology, attributes, only_default_domain

__all__ = ["LOWEST_OPSET", "normal_form"]

_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
LOWEST_OPSET = 13  # the first in which QuantizeLinear and DequantizeLinear take one scale a channel


def normal_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that computes the same, in which

    - every node has a name of its own,
    - Constant nodes are initializers, initializers are no inputs, and Identity nodes between other nodes are gone,
    - the mean over height and width is GlobalAveragePool (and Flatten, where the mean dropped them),
    - a product of a matrix and a constant matrix, plus a constant vector, is Gemm,
    - a rectifier stands before an operator that only reshapes, next to the product that it fuses with, and of two
      reshapes in a row the first is gone.

    Raises DataError for an opset below LOWEST_OPSET.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < LOWEST_OPSET:
        raise DataError(
            f"the network is written in ONNX opset {opset}, and Q/DQ nodes with one scale a channel need opset {LOWEST_OPSET}",
            hint=f"export it again with opset_version={LOWEST_OPSET} or higher, or use onnx.version_converter",
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for rewrite in _REWRITES:
        rewrite(result)
    return result


def _inputs_with_a_value_are_constants(model: onnx.ModelProto) -> None:
    # Up to IR version 3 every initializer had to be an input, too; later that means a default which a caller may
    # replace.
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, 4)


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    for node in list(model.graph.node):
        if node.op_type == "Constant" and only_default_domain(node):
            value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
            if value is not None:
                tensor = model.graph.initializer.add()
                tensor.CopyFrom(value)
                tensor.name = node.output[0]
                model.graph.node.remove(node)


def _drop_identities(model: onnx.ModelProto) -> None:
    for node in [node for node in model.graph.node if node.op_type == "Identity" and only_default_domain(node)]:
        view = Topology(model)  # anew each time: an identity may read another one
        readers = view.consumers(node.output[0])
        if node.output[0] in view.outputs:
            continue
        if any(attribute.type == onnx.AttributeProto.GRAPH for reader in readers for attribute in reader.attribute):
            continue
        for reader in readers:
            _replace_input(reader, node.output[0], node.input[0])
        model.graph.node.remove(node)


def _means_to_pooling(model: onnx.ModelProto) -> None:
    view = Topology(model)
    for node in view.nodes:
        if node.op_type != "ReduceMean" or not only_default_domain(node) or not _over_height_and_width(node, view):
            continue
        replacement = helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]], name=node.name)
        if attributes(node).get("keepdims", 1) == 0:
            pooled = f"{node.output[0]}/pooled"
            flat = helper.make_node("Flatten", [pooled], [node.output[0]], name=f"{node.name}/flat", axis=1)
            model.graph.node.insert(_position(model, node) + 1, flat)
            replacement.output[0] = pooled
        model.graph.node[_position(model, node)].CopyFrom(replacement)


def _over_height_and_width(node: onnx.NodeProto, view: Topology) -> bool:
    axes: object = attributes(node).get("axes")
    if len(node.input) > 1 and node.input[1]:
        constant = view.constant(node.input[1])
        axes = None if constant is None else tuple(int(axis) for axis in constant.ravel())
    if not isinstance(axes, tuple):
        return False
    try:
        rank = len(view.shape(node.input[0]))
    except DataError:
        return False
    return rank == 4 and sorted(axis % rank for axis in axes) == [2, 3]


def _products_to_gemm(model: onnx.ModelProto) -> None:
    view = Topology(model)
    for product in view.nodes:
        if product.op_type != "MatMul" or not only_default_domain(product) or not view.is_float(product.input[1]):
            continue
        readers = view.consumers(product.output[0])
        if len(readers) != 1 or readers[0].op_type != "Add" or product.output[0] in view.outputs:
            continue
        add = readers[0]
        bias = next((name for name in add.input if name != product.output[0]), "")
        weight = view.constant(product.input[1])
        vector = view.constant(bias) if view.is_float(bias) else None
        if (
            weight is None
            or vector is None
            or weight.ndim != 2
            or vector.shape not in ((weight.shape[1],), (1, weight.shape[1]))
        ):
            continue
        try:
            if len(view.shape(product.input[0])) != 2:
                continue
        except DataError:
            continue
        gemm = helper.make_node("Gemm", [product.input[0], product.input[1], bias], [add.output[0]], name=product.name)
        model.graph.node[_position(model, add)].CopyFrom(gemm)
        model.graph.node.remove(product)


def _rectify_before_reshaping(model: onnx.ModelProto) -> None:
    view = Topology(model)
    for node in view.nodes:
        reshape = (
            view.producer(node.input[0]) if node.op_type in ("Relu", "Clip") and only_default_domain(node) else None
        )
        if reshape is None or reshape.op_type not in _RESHAPES or not _only_reader(reshape.output[0], view):
            continue
        # The rectifier takes the reshape's place in the graph and the other way round, so that the order stays right;
        # the last name stays, too.
        rectified = f"{reshape.input[0]}/rectified"
        moved, first, last = onnx.NodeProto(), _position(model, reshape), _position(model, node)
        moved.CopyFrom(reshape)
        model.graph.node[first].CopyFrom(node)
        model.graph.node[first].input[0], model.graph.node[first].output[0] = moved.input[0], rectified
        moved.input[0], moved.output[0] = rectified, node.output[0]
        model.graph.node[last].CopyFrom(moved)
        view = Topology(model)


def _join_reshapes(model: onnx.ModelProto) -> None:
    view = Topology(model)
    for node in view.nodes:
        first = view.producer(node.input[0]) if node.op_type == "Reshape" and only_default_domain(node) else None
        shape = view.constant(node.input[1]) if first is not None else None
        # A zero in the shape means the size that the first reshape gave: then it must stay.
        if (
            first is not None
            and first.op_type == "Reshape"
            and _only_reader(first.output[0], view)
            and shape is not None
            and (shape != 0).all()
        ):
            node.input[0] = first.input[0]
            model.graph.node.remove(first)
            view = Topology(model)


def _only_reader(tensor: str, view: Topology) -> bool:
    return len(view.consumers(tensor)) == 1 and tensor not in view.outputs


def _name_nodes(model: onnx.ModelProto) -> None:
    taken: set[str] = set()
    for node in model.graph.node:
        base = node.name or f"{node.op_type}_{node.output[0]}"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        node.name = name
        taken.add(name)


def _drop_unused(model: onnx.ModelProto) -> None:
    view = Topology(model)
    for tensor in list(model.graph.initializer):
        if not view.consumers(tensor.name) and tensor.name not in view.outputs:
            model.graph.initializer.remove(tensor)
    made = {name for node in model.graph.node for name in node.output}
    for value in list(model.graph.value_info):
        if value.name not in made:
            model.graph.value_info.remove(value)


def _position(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    return next(index for index, candidate in enumerate(model.graph.node) if candidate.output == node.output)


def _replace_input(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


_REWRITES: tuple[Callable[[onnx.ModelProto], None], ...] = (
    _inputs_with_a_value_are_constants,
    _constants_to_initializers,
    _drop_identities,
    _name_nodes,
    _means_to_pooling,
    _products_to_gemm,
    _rectify_before_reshaping,
    _join_reshapes,
    _drop_unused,
)
