"""Look at a network with Q/DQ nodes as its backend will: what would be rejected, and which pairs break a fusion and
so cost time.

`faults` are errors in any network of that dialect, `lint` adds what merely makes it slower. Both work on any network,
not only on our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from enginewright.errors import listed
from enginewright.graph.dialects import Dialect
from enginewright.graph.placement import rectified
from enginewright.graph.rules import RULES, Kind, channel_axis
from enginewright.graph.topology import Topology, attributes

__all__ = ["faults", "lint"]

_FOREIGN = ("QLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_MOVES = frozenset(name for name, rule in RULES.items() if rule is Kind.SAME_VALUES)
_POOLS = frozenset({"MaxPool", *(name for name, rule in RULES.items() if rule is Kind.POOL)})
# What TensorRT fuses behind a product, or computes in float: a pair in front of it is work for nothing.
_ACTIVATIONS = frozenset(
    {"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"}
)
_NORMS = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Softmax"}
)
_ONE_TYPE = frozenset(
    {"Add", "Concat", "Div", "Mul", "Sub", *(name for name, rule in RULES.items() if rule is Kind.WEIGHTED)}
)
_FLOATS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
_INTEGER_TYPES = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT32: "int32"}


def faults(model: onnx.ModelProto, dialect: Dialect) -> tuple[str, ...]:
    """Sentences that name each node which the backend would reject or compute wrongly; empty if there is none."""
    view = Topology(model)
    return (
        *_foreign_operators(view),
        *_mixed_floats(view),
        *(sentence for node in view.nodes for sentence in _node_faults(node, view, dialect)),
    )


def lint(model: onnx.ModelProto, dialect: Dialect) -> tuple[str, ...]:
    """`faults`, and a sentence for each pair that breaks a fusion and each layer that misses its integer kernel."""
    view = Topology(model)
    slow = _around(view, dialect) if dialect.placement == "around" else _inputs(view)
    return (*faults(model, dialect), *_left_over(view), *slow)


@dataclass(frozen=True)
class _Constants:
    """The constants of a QuantizeLinear or DequantizeLinear node."""

    scale: npt.NDArray[np.float64]
    zero_point: npt.NDArray[np.int64]
    type: str
    axis: int


def _constants(node: onnx.NodeProto, view: Topology) -> _Constants | None:
    scale = view.constant(node.input[1])
    if scale is None:
        return None
    axis = attributes(node).get("axis", 1)
    zero_point, type_ = np.zeros(scale.shape, np.int64), "uint8"
    if len(node.input) > 2 and node.input[2]:
        tensor, value = view.initializers.get(node.input[2]), view.constant(node.input[2])
        if tensor is None or value is None:
            return None
        zero_point, type_ = value.astype(np.int64), _INTEGER_TYPES.get(tensor.data_type, str(value.dtype))
    elif node.op_type == "DequantizeLinear" and node.input[0] in view.initializers:
        type_ = _INTEGER_TYPES.get(view.initializers[node.input[0]].data_type, "another type")
    return _Constants(scale.astype(np.float64), zero_point, type_, axis if isinstance(axis, int) else 1)


def _foreign_operators(view: Topology) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type.startswith(_FOREIGN):
            yield f"'{node.name}' is {node.op_type}: only QuantizeLinear and DequantizeLinear are portable"


def _mixed_floats(view: Topology) -> Iterator[str]:
    """Operators that read two floating-point types: what a pair gives has the type of its scale."""
    types = {name: tensor.data_type for name, tensor in view.initializers.items()}
    types.update((value.name, value.type.tensor_type.elem_type) for value in view.model.graph.input)
    if len(_FLOATS.keys() & types.values()) < 2:
        return  # nearly every network: nothing to infer
    for value in onnx.shape_inference.infer_shapes(view.model).graph.value_info:
        types[value.name] = value.type.tensor_type.elem_type
    for node in view.nodes:
        read = dict.fromkeys(_FLOATS[types[name]] for name in node.input if types.get(name) in _FLOATS)
        if node.op_type in _ONE_TYPE and len(read) > 1:
            yield f"'{node.name}' ({node.op_type}) reads {listed(read)}: the parser wants one type"


def _node_faults(node: onnx.NodeProto, view: Topology, dialect: Dialect) -> Iterator[str]:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    found = _constants(node, view)
    if found is None:
        yield f"'{node.name}' has a scale or zero point that is computed, not constant"
        return
    if not (np.isfinite(found.scale) & (found.scale > 0)).all():
        yield f"'{node.name}' has a scale that is not positive and finite"
    role = _role(node, view)
    if role == "weight":
        yield from _weight_faults(node, found, view, dialect)
    elif role == "bias":
        yield from _bias_faults(node, found, view, dialect)
    else:
        first, last = dialect.activation_limits
        if found.type != dialect.activation:
            yield f"'{node.name}' holds activations as {found.type}, and {dialect.name} wants {dialect.activation}"
        if found.scale.size > 1:
            yield f"'{node.name}' has a scale for each channel of an activation: that is accepted and never fused"
        if dialect.symmetric and found.zero_point.any():
            yield f"'{node.name}' has zero point {int(found.zero_point.ravel()[0])}, and {dialect.name} wants 0"
        if ((found.zero_point < first) | (found.zero_point > last)).any():
            yield f"'{node.name}' has a zero point outside {first} to {last}"


def _weight_faults(node: onnx.NodeProto, found: _Constants, view: Topology, dialect: Dialect) -> Iterator[str]:
    if found.type != "int8" or found.zero_point.any():
        yield f"'{node.name}' holds weights as {found.type} with a zero point, and {dialect.name} wants int8 and 0"
    if dialect.weights_as == "float32" and node.op_type == "DequantizeLinear" and view.producer(node.input[0]) is None:
        yield f"'{node.name}' reads stored integers: the parser of TensorRT 8 wants float32 weights behind QuantizeLinear"
    stored = view.constant(node.input[0])
    if stored is not None and stored.ndim >= 2 and (found.scale > 0).all():
        integers = stored.astype(np.int64) if node.op_type == "DequantizeLinear" else _rounded(stored, found)
        largest = int(np.abs(integers).max(initial=0))
        if largest > dialect.weight_limit:
            yield f"'{node.name}' holds the weight {largest}, and {dialect.name} takes magnitudes up to {dialect.weight_limit}"
    constant = _behind_quantizers(node, view)
    assert constant is not None  # else it would be no weight
    rank = len(constant.dims)
    for reader in view.consumers(node.output[0]) if node.op_type == "DequantizeLinear" else ():
        matrix = rank == 2 or reader.op_type not in ("Gemm", "MatMul")
        wanted = channel_axis(reader) if RULES.get(reader.op_type) is Kind.WEIGHTED and matrix else None
        if wanted is not None and found.scale.size > 1 and found.axis % rank != wanted:
            yield f"'{node.name}' has its scales along axis {found.axis} of {reader.op_type} '{reader.name}': only axis {wanted} is fused"


def _bias_faults(node: onnx.NodeProto, found: _Constants, view: Topology, dialect: Dialect) -> Iterator[str]:
    if dialect.bias != "int32":
        yield f"'{node.name}' holds a bias as {found.type}, and the parser of {dialect.name} rejects that: leave the bias in float32"
        return
    if found.type != "int32" or found.zero_point.any():
        yield f"'{node.name}' holds a bias as {found.type} with a zero point, and {dialect.name} wants int32 and 0"
    for reader in view.consumers(node.output[0]):
        makers = [view.producer(name) for name in reader.input[:2]]
        constants = [
            _constants(maker, view) for maker in makers if maker is not None and maker.op_type == "DequantizeLinear"
        ]
        if len(constants) == 2 and constants[0] is not None and constants[1] is not None:
            product = (constants[0].scale * constants[1].scale).ravel()
            if not np.allclose(found.scale.ravel(), product, rtol=1e-5, atol=0.0):
                yield f"'{node.name}' has another scale than input x weight of '{reader.name}': the integer kernel would add a wrong bias"


def _role(node: onnx.NodeProto, view: Topology) -> str:
    """What a Q or DQ node quantizes: `weight`, `bias` or `activation`."""
    stored = _behind_quantizers(node, view)
    if stored is None:
        return "activation"
    return "bias" if stored.data_type == onnx.TensorProto.INT32 or len(stored.dims) == 1 else "weight"


def _behind_quantizers(node: onnx.NodeProto, view: Topology) -> onnx.TensorProto | None:
    """The constant that a Q or DQ node quantizes, perhaps through the Q node before it; None for an activation."""
    maker = view.producer(node.input[0])
    through = node.op_type == "DequantizeLinear" and maker is not None and maker.op_type == "QuantizeLinear"
    return view.initializers.get(maker.input[0] if through and maker is not None else node.input[0])


def _rounded(weights: npt.NDArray[np.generic], found: _Constants) -> npt.NDArray[np.int64]:
    shape = [1] * weights.ndim
    shape[found.axis if found.scale.size > 1 else 0] = found.scale.size
    # As QuantizeLinear does it: the division is in float32.
    divided = weights.astype(np.float32) / found.scale.astype(np.float32).reshape(shape)
    return np.asarray(np.rint(divided), np.int64)


def _left_over(view: Topology) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type == "BatchNormalization":
            yield f"'{node.name}' (BatchNormalization) stays float: merge it into the layer before it, or expect a pair on both its sides"


def _is(node: onnx.NodeProto | None, op_type: str) -> bool:
    return node is not None and node.op_type == op_type


def _dequantized(tensor: str, view: Topology) -> bool:
    return _is(view.producer(tensor), "DequantizeLinear")


def _has_integer_weights(node: onnx.NodeProto, view: Topology) -> bool:
    return RULES.get(node.op_type) is Kind.WEIGHTED and _dequantized(node.input[1], view)


def _group(tensor: str, view: Topology) -> tuple[float, int] | None:
    """Scale and zero point with which a dequantized tensor was made."""
    node = view.producer(tensor)
    found = _constants(node, view) if node is not None and node.op_type == "DequantizeLinear" else None
    return None if found is None else (float(found.scale.ravel()[0]), int(found.zero_point.ravel()[0]))


def _quantized_as(tensor: str, view: Topology) -> tuple[float, int] | None:
    readers = [node for node in view.consumers(tensor) if node.op_type == "QuantizeLinear"]
    found = _constants(readers[0], view) if readers else None
    return None if found is None else (float(found.scale.ravel()[0]), int(found.zero_point.ravel()[0]))


def _joins_scales(node: onnx.NodeProto, view: Topology) -> bool:
    groups = {_group(name, view) for name in node.input} if node.op_type == "Concat" else set()
    return len(groups) > 1 and None not in groups


def _around(view: Topology, dialect: Dialect) -> Iterator[str]:
    """The patterns of ONNX Runtime: DequantizeLinear before, QuantizeLinear behind, nothing else reading in between."""
    for node in view.nodes:
        if _has_integer_weights(node, view):
            yield from (f"'{node.name}' ({node.op_type}) {reason}" for reason in _not_fused(node, view, dialect))
        elif node.op_type in _MOVES and _dequantized(node.input[0], view):
            behind = _quantized_as(node.output[0], view)
            if behind is not None and behind != _group(node.input[0], view):
                yield f"'{node.name}' ({node.op_type}) has another scale behind it than before it: the pair is not dropped"
        elif _joins_scales(node, view):
            yield f"'{node.name}' (Concat) joins tensors with different scales: every value is looked up instead of copied"


def _not_fused(node: onnx.NodeProto, view: Topology, dialect: Dialect) -> Iterator[str]:
    """Why a product with integer weights is computed in float all the same."""
    end = rectified(node, view)
    behind = _quantized_as(end, view)
    if not _dequantized(node.input[0], view):
        yield "has integer weights and a float input: it stays float"
    if node.op_type == "Conv" and behind is None:
        yield "gives float: without QuantizeLinear behind it, it stays float"
    if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in view.initializers:
        yield "has a float bias: it stays float"
    if behind is not None and len(view.consumers(end)) > 1:
        yield "stays float: something reads its output beside QuantizeLinear"
    if behind is not None and end != node.output[0] and behind[1] != dialect.activation_limits[0]:
        yield f"stays float: with zero point {behind[1]} its rectifier is not absorbed"


def _inputs(view: Topology) -> Iterator[str]:
    """The fusions of TensorRT: convolution with its rectifier, and with the sum behind it."""
    for node in view.nodes:
        if _has_integer_weights(node, view) and not _dequantized(node.input[0], view):
            yield f"'{node.name}' ({node.op_type}) has integer weights and a float input: its product is not an integer one"
        maker = view.producer(node.input[0]) if node.input else None
        copies = maker is not None and maker.op_type in _MOVES - {"MaxPool"} and _dequantized(maker.input[0], view)
        if node.op_type == "QuantizeLinear" and maker is not None and copies:
            yield f"'{maker.name}' ({maker.op_type}) only moves values and has a pair on both its sides"
        if node.op_type in _ACTIVATIONS | _NORMS and (pair := _pair_of(node.input[0], view)) is not None:
            yield _before_float(node, pair, view)
        if node.op_type in _POOLS and _dequantized(node.input[0], view) and not _requantized(node.output[0], view):
            yield f"'{node.name}' ({node.op_type}) has a pair before it and none behind: it stays float, and the pair is work for nothing"
        if node.op_type == "DequantizeLinear" and node.output[0] in view.outputs:
            yield f"'{node.name}' quantizes the output '{node.output[0]}': that costs accuracy and saves nothing"
        if node.op_type == "Add":
            yield from (f"'{node.name}' (Add) {reason}" for reason in _not_summed(node, view))
        if _joins_scales(node, view):
            yield f"'{node.name}' (Concat) joins tensors with different scales: each is requantized first"
        elif node.op_type in ("Concat", "MaxPool") and _changes_scale(node, view):
            yield f"'{node.name}' ({node.op_type}) has another scale behind it than before it: its values are requantized"


def _not_summed(node: onnx.NodeProto, view: Topology) -> Iterator[str]:
    """Why a residual sum does not fuse with the convolution that makes one of its branches."""
    if any(name in view.initializers for name in node.input) or node.input[0] == node.input[1]:
        return
    pairs = [name for name in node.input if _dequantized(name, view)]
    fusing = [name for name in node.input if len(view.consumers(name)) == 1 and _is_integer_convolution(name, view)]
    if len(pairs) == 2:
        yield "has a pair on both branches: the sum no longer fuses with the convolution before it"
    elif fusing and not pairs:
        yield "has no pair on the branch that it does not fuse with: float values are read where int8 would do"
    elif pairs and not fusing and (maker := _pair_of(pairs[0], view)) and _is_integer_convolution(maker.input[0], view):
        yield "has a pair on the branch of its convolution and none on the other: the two no longer fuse"


def _is_integer_convolution(tensor: str, view: Topology) -> bool:
    maker = view.producer(tensor)
    return maker is not None and maker.op_type in ("Conv", "ConvTranspose") and _has_integer_weights(maker, view)


def _pair_of(tensor: str, view: Topology) -> onnx.NodeProto | None:
    """The QuantizeLinear of the pair that a tensor comes out of."""
    back = view.producer(tensor)
    pair = view.producer(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
    return pair if _is(pair, "QuantizeLinear") else None


def _before_float(node: onnx.NodeProto, pair: onnx.NodeProto, view: Topology) -> str:
    maker = view.producer(pair.input[0])
    if maker is not None and (_has_integer_weights(maker, view) or maker.op_type == "Add"):
        return f"'{pair.name}' stands between '{maker.name}' and its activation: the two no longer fuse"
    return (
        f"'{pair.name}' quantizes the input of '{node.name}' ({node.op_type}), which is computed in float all the same"
    )


def _requantized(tensor: str, view: Topology) -> bool:
    """Whether a tensor becomes integers, perhaps behind operators that only move its values."""
    return any(
        node.op_type == "QuantizeLinear" or (node.op_type in _MOVES and _requantized(node.output[0], view))
        for node in view.consumers(tensor)
    )


def _changes_scale(node: onnx.NodeProto, view: Topology) -> bool:
    before, behind = _group(node.input[0], view), _quantized_as(node.output[0], view)
    return before is not None and behind is not None and before != behind
