"""What each ONNX operator means to the placement of Q/DQ pairs, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx

from enginewright.errors import DataError
from enginewright.graph.dialects import Dialect
from enginewright.graph.topology import FloatArray, Topology, attributes, only_default_domain

__all__ = ["RULES", "Kind", "Weights", "channel_axis", "kind", "weights_of", "why_float"]


class Kind(Enum):
    """How an operator takes part."""

    WEIGHTED = "a product with constant weights: where integer arithmetic pays"
    ADD = "a sum of two activations: a residual connection"
    POOL = "averages its input: an integer kernel of its own, an output range of its own"
    SAME_VALUES = "moves or selects values: input and output share one range"
    CONCAT = "joins tensors: inputs and output share one range"
    RECTIFIER = "cuts off below zero: absorbed by the quantizer behind it"
    OTHER = "stays float"


RULES: Mapping[str, Kind] = {
    "Conv": Kind.WEIGHTED,
    "ConvTranspose": Kind.WEIGHTED,
    "Gemm": Kind.WEIGHTED,
    "MatMul": Kind.WEIGHTED,
    "Add": Kind.ADD,
    "AveragePool": Kind.POOL,
    "GlobalAveragePool": Kind.POOL,
    "MaxPool": Kind.SAME_VALUES,
    "Flatten": Kind.SAME_VALUES,
    "Reshape": Kind.SAME_VALUES,
    "Squeeze": Kind.SAME_VALUES,
    "Transpose": Kind.SAME_VALUES,
    "Unsqueeze": Kind.SAME_VALUES,
    "Concat": Kind.CONCAT,
    "Relu": Kind.RECTIFIER,
    "Clip": Kind.RECTIFIER,
}


@dataclass(frozen=True)
class Weights:
    """The constants of a WEIGHTED node. Along `axis` of `weight` lie the output channels, each with its scale."""

    weight_name: str
    weight: FloatArray
    axis: int
    bias_name: str
    bias: FloatArray | None


def kind(node: onnx.NodeProto, view: Topology) -> Kind:
    """How `node` takes part; OTHER for what is unknown, has several outputs, or is a sum with a constant."""
    found = RULES.get(node.op_type, Kind.OTHER) if only_default_domain(node) else Kind.OTHER
    if found is Kind.RECTIFIER:
        return found if _is_rectifier(node, view) else Kind.OTHER
    if found is Kind.ADD and (any(name in view.initializers for name in node.input) or node.input[0] == node.input[1]):
        return Kind.OTHER
    if found is Kind.CONCAT and any(name in view.initializers for name in node.input):
        return Kind.OTHER
    return Kind.OTHER if len([name for name in node.output if name]) > 1 else found


def _is_rectifier(node: onnx.NodeProto, view: Topology) -> bool:
    """Whether the operator is max(x, 0), perhaps with an upper bound too: then nothing below zero needs an integer."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or len(node.input) < 2:
        return False
    low = view.constant(node.input[1]) if node.input[1] else None
    high_known = len(node.input) < 3 or not node.input[2] or node.input[2] in view.initializers
    return low is not None and low.size == 1 and float(low.ravel()[0]) == 0.0 and high_known


def weights_of(node: onnx.NodeProto, view: Topology) -> Weights | None:
    """The constants of a WEIGHTED node; None where they are computed, shared as something else, or not float32."""
    bias_name = node.input[2] if len(node.input) > 2 else ""
    if not view.is_float(node.input[1]) or (bias_name and not view.is_float(bias_name)):
        return None
    weight = np.asarray(view.constant(node.input[1]), np.float32)
    bias = np.asarray(view.constant(bias_name), np.float32) if bias_name else None
    axis = channel_axis(node)
    if weight.ndim < 2 or (node.op_type in ("Gemm", "MatMul") and weight.ndim != 2):
        return None
    return Weights(node.input[1], weight, axis, bias_name, bias)


def why_float(node: onnx.NodeProto, view: Topology, dialect: Dialect) -> str:
    """Why a WEIGHTED node stays float in this dialect, as a clause; empty where it has an integer kernel."""
    if node.op_type not in dialect.weighted:
        return f"{dialect.name} has no integer {node.op_type}"
    weights = weights_of(node, view)
    if weights is None:
        return "its weights are computed or not a float32 matrix"
    plain = attributes(node)
    if node.op_type == "Gemm":
        scaled = plain.get("alpha", 1.0) != 1.0 or (plain.get("beta", 1.0) != 1.0 and weights.bias is not None)
        if scaled or plain.get("transA", 0) != 0:
            return "it scales or transposes its input"
        if weights.bias is not None and weights.bias.size != weights.weight.shape[weights.axis]:
            return "its bias is not one number a channel"
    if node.op_type in ("Conv", "ConvTranspose"):
        group = plain.get("group", 1)
        channels = min(weights.weight.shape[0], weights.weight.shape[1] * (group if isinstance(group, int) else 1))
        if channels < dialect.minimum_channels:
            return f"it has {channels} channels, fewer than {dialect.minimum_channels}"
    elif dialect.minimum_rows > 1 and _product_rows(node, view) < dialect.minimum_rows:
        return "it multiplies one row at batch one"
    return ""


def _product_rows(node: onnx.NodeProto, view: Topology) -> int:
    """The rows that a Gemm or MatMul multiplies at batch one. Raises DataError where the shape cannot be inferred."""
    shape = view.shape(node.output[0])
    if not shape:
        raise DataError(f"'{node.name}' ({node.op_type}) gives a number, not a matrix")
    return int(np.prod(shape[:-1]))


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a WEIGHTED node's weight along which its output channels lie."""
    if node.op_type == "Gemm":
        return 0 if attributes(node).get("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}[node.op_type]
