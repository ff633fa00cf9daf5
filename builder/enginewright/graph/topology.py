"""A read-only view of an ONNX graph: who makes and who reads a tensor, the constants, and all shapes at batch one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from enginewright.errors import DataError

__all__ = ["FloatArray", "Topology", "attributes", "only_default_domain", "read_anywhere", "shapes_at_batch_one"]

FloatArray: TypeAlias = npt.NDArray[np.float32]
Attribute: TypeAlias = "int | float | str | tuple[int, ...]"


class Topology:
    """The main graph of `model`, indexed. Nodes of subgraphs (If, Loop, Scan) count as readers of what they capture.

    The model must not change while the view is in use.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = list(graph.node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = tuple(value.name for value in graph.input if value.name not in self.initializers)
        self.outputs = tuple(value.name for value in graph.output)
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in {*node.input, *_captured(node)} - {""}:
                self._consumers.setdefault(name, []).append(node)
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes `tensor`; None for inputs and constants."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read `tensor`, in graph order, each once."""
        return self._consumers.get(tensor, [])

    def constant(self, tensor: str) -> npt.NDArray[np.generic] | None:
        """The value of an initializer; None for anything else."""
        found = self.initializers.get(tensor)
        return None if found is None else numpy_helper.to_array(found)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor at batch one. Raises DataError where it cannot be inferred."""
        if self._shapes is None:
            self._shapes = shapes_at_batch_one(self.model)
        if tensor not in self._shapes:
            raise DataError(
                f"the shape of tensor '{tensor}' cannot be inferred",
                hint="export the network with fixed sizes in every dimension but the batch, and simplify it (onnxsim)",
            )
        return self._shapes[tensor]

    def is_float(self, tensor: str) -> bool:
        """Whether an initializer holds float32."""
        found = self.initializers.get(tensor)
        return found is not None and found.data_type == onnx.TensorProto.FLOAT


def attributes(node: onnx.NodeProto) -> dict[str, Attribute]:
    """The plain attributes of a node by name: numbers, text and lists of integers. Tensors and graphs are left out."""
    plain: dict[str, Attribute] = {}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.INT:
            plain[attribute.name] = attribute.i
        elif attribute.type == onnx.AttributeProto.FLOAT:
            plain[attribute.name] = attribute.f
        elif attribute.type == onnx.AttributeProto.STRING:
            plain[attribute.name] = attribute.s.decode()
        elif attribute.type == onnx.AttributeProto.INTS:
            plain[attribute.name] = tuple(attribute.ints)
    return plain


def only_default_domain(node: onnx.NodeProto) -> bool:
    """Whether the operator is one of ONNX itself: in another domain the same name may mean something else."""
    return node.domain in ("", "ai.onnx")


def shapes_at_batch_one(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor whose shape can be inferred when the first dimension of every input is one.

    Raises DataError if an input has an unknown size in another dimension, or if the graph contradicts itself.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    constants = {tensor.name for tensor in fixed.graph.initializer}
    for value in fixed.graph.input:
        if value.name not in constants:
            _fix_batch(value)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise DataError(
            f"the shapes of the network cannot be inferred: {_first_line(error)}",
            hint="check the file with onnx.checker.check_model(path, full_check=True)",
        ) from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        if value.type.tensor_type.HasField("shape"):
            sizes = value.type.tensor_type.shape.dim
            if all(size.HasField("dim_value") for size in sizes):
                shapes[value.name] = tuple(size.dim_value for size in sizes)
    return shapes


def read_anywhere(graph: onnx.GraphProto) -> Iterator[str]:
    """The tensors that its nodes, graphs within them, and its outputs read."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from read_anywhere(attribute.g)


def _fix_batch(value: onnx.ValueInfoProto) -> None:
    for axis, size in enumerate(value.type.tensor_type.shape.dim):
        if size.HasField("dim_value"):
            continue
        if axis > 0:
            raise DataError(
                f"input '{value.name}' has no fixed size in dimension {axis} ('{size.dim_param or '?'}')",
                hint="only the first dimension, the batch, may be free: export the network for one input size",
            )
        size.dim_value = 1


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _captured(inner)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
