"""Each fault is put into a good network by hand, and lint must name the node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.builder.graph.small_networks import array, conv, conv_constants, inputs, network

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.lint import faults, lint
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate


def _good(dialect: str) -> onnx.ModelProto:
    """Two convolutions with a residual sum, a max pool and a join, quantized."""
    nodes = [
        *(conv("a", "x", "p"), helper.make_node("Relu", ["p"], ["a"], name="relu")),
        *(conv("b", "a", "b"), helper.make_node("Add", ["b", "a"], ["s"], name="sum")),
        helper.make_node("MaxPool", ["s"], ["m"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        *(conv("c", "m", "c"), helper.make_node("Concat", ["c", "m"], ["j"], name="join", axis=1)),
        conv("d", "j", "y"),
    ]
    constants = {name: value for key in "abc" for name, value in conv_constants(key, 16, 16, seed=ord(key)).items()}
    model = network(nodes, {**constants, **conv_constants("d", 32, 16)})
    scales = calibrate(model, tensors_to_calibrate(model), [inputs(model)], method="minmax")
    return quantize(model, scales, DIALECTS[dialect])


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def _set(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _own_constants(model: onnx.ModelProto, name: str, scale: np.ndarray, zero_point: np.ndarray) -> None:
    """Give a Q or DQ node a scale and zero point of its own."""
    for index, value in ((1, scale), (2, zero_point)):
        key = f"{name}/own{index}"
        model.graph.initializer.append(numpy_helper.from_array(value, key))
        _node(model, name).input[index] = key


def _between(model: onnx.ModelProto, tensor: str, reader: str) -> None:
    """Put a Q/DQ pair between a tensor and one of its readers."""
    position = next(index for index, node in enumerate(model.graph.node) if node.name == reader)
    constants = ["a/scale", "a/zero_point"]
    pair = [
        helper.make_node("QuantizeLinear", [tensor, *constants], [f"{tensor}/q"], name=f"{reader}/extra"),
        helper.make_node(
            "DequantizeLinear", [f"{tensor}/q", *constants], [f"{tensor}/dq"], name=f"{reader}/extra/back"
        ),
    ]
    node = model.graph.node[position]
    node.input[:] = [f"{tensor}/dq" if name == tensor else name for name in node.input]
    for offset, new in enumerate(pair):
        model.graph.node.insert(position + offset, new)


def _zero_point(model: onnx.ModelProto) -> None:
    _set(model, "a/zero_point", np.array(3, np.int8))


def _negative_scale(model: onnx.ModelProto) -> None:
    _set(model, "a/scale", np.array(-0.1, np.float32))


def _unsigned(model: onnx.ModelProto) -> None:
    _set(model, "x/zero_point", np.array(0, np.uint8))


def _signed(model: onnx.ModelProto) -> None:
    _set(model, "x/zero_point", np.array(0, np.int8))


def _per_channel(model: onnx.ModelProto) -> None:
    _own_constants(model, "a/quantize", np.full(16, 0.1, np.float32), np.zeros(16, np.int8))


def _integer_bias(model: onnx.ModelProto) -> None:
    scale = np.full(16, 0.001, np.float32)
    for name, value in (("bq", np.ones(16, np.int32)), ("bs", scale), ("bz", np.zeros(16, np.int32))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["bd"], name="bias", axis=0))
    _node(model, "a").input[2] = "bd"


def _zero_scale(model: onnx.ModelProto) -> None:
    _set(model, "a/scale", np.array(0.0, np.float32))


def _no_number(model: onnx.ModelProto) -> None:
    _set(model, "b/weight/scale", np.full(16, np.nan, np.float32))


def _shifted_weights(model: onnx.ModelProto) -> None:
    _set(model, "b/weight/zero_point", np.full(16, 2, np.int8))


def _unsigned_weights(model: onnx.ModelProto) -> None:
    _set(model, "b/weight/zero_point", np.zeros(16, np.uint8))


def _computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["a/scale"], ["measured"], name="abs"))
    _node(model, "a/quantize").input[1] = "measured"


def _integer_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("QLinearConv", list("uvwabcde"), ["f"], name="old"))


def _half_weights(model: onnx.ModelProto) -> None:
    """A layer that stays float, with weights of another type than what it reads."""
    _node(model, "a").input[1] = "half"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 16, 3, 3), np.float16), "half"))


def _half_scale(model: onnx.ModelProto) -> None:
    """From opset 19 on, what comes out of a pair has the type of its scale."""
    model.opset_import[0].version = 19
    _own_constants(model, "x/dequantize", np.array(0.1, np.float16), np.array(0, np.int8))


def _weight_axis(model: onnx.ModelProto) -> None:
    for name in ("a/weight/quantize", "a/weight/dequantize"):
        _node(model, name).attribute[0].i = 1


def _other_bias_scale(model: onnx.ModelProto) -> None:
    _set(model, "a/bias/scale", array(model, "a/bias/scale") * np.float32(1.5))


def _eight_bits(model: onnx.ModelProto) -> None:
    weight = array(model, "b/weight/quantized").copy()
    weight[0, 0, 0, 0] = 127
    _set(model, "b/weight/quantized", weight)


def _between_convolution_and_activation(model: onnx.ModelProto) -> None:
    _between(model, "p", "relu")


def _between_convolution_and_normalization(model: onnx.ModelProto) -> None:
    relu = _node(model, "relu")
    relu.op_type = "BatchNormalization"
    relu.input.extend(f"norm{index}" for index in range(4))
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ones(16, np.float32), name) for name in list(relu.input)[1:]
    )
    _between(model, "p", "relu")


def _between_sum_and_activation(model: onnx.ModelProto) -> None:
    _behind_the_sum(model, "Relu")
    _between(model, "s", "behind")


def _before_a_sigmoid(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Sigmoid", ["m/dequantized"], ["gate"], name="gate"))


def _before_a_softmax(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Softmax", ["m/dequantized"], ["share"], name="share"))


def _behind_the_sum(model: onnx.ModelProto, op_type: str) -> None:
    """The sum has an activation, which the pair behind it then reads."""
    position = next(index for index, node in enumerate(model.graph.node) if node.name == "sum")
    for node in model.graph.node:
        node.input[:] = ["t" if name == "s" else name for name in node.input]
    model.graph.node.insert(position + 1, helper.make_node(op_type, ["s"], ["t"], name="behind"))


def _around_a_copy(model: onnx.ModelProto) -> None:
    copy = helper.make_node("Transpose", ["x/dequantized"], ["turned"], name="turn", perm=[0, 1, 3, 2])
    position = next(index for index, node in enumerate(model.graph.node) if node.name == "a")
    model.graph.node.insert(position, copy)
    _node(model, "a").input[0] = "turned"
    _between(model, "turned", "a")


def _pool_into_float(model: onnx.ModelProto) -> None:
    model.graph.node.append(
        helper.make_node("AveragePool", ["m/dequantized"], ["mean"], name="mean", kernel_shape=[2, 2])
    )


def _no_pair_on_the_skip(model: onnx.ModelProto) -> None:
    _node(model, "sum").input[1] = "a"


def _the_wrong_branch(model: onnx.ModelProto) -> None:
    _node(model, "sum").input[1] = "a"
    _between(model, "b", "sum")


def _both_branches(model: onnx.ModelProto) -> None:
    _between(model, "b", "sum")


def _on_the_output(model: onnx.ModelProto) -> None:
    _node(model, "d").output[0] = "before"
    constants = ["a/scale", "a/zero_point"]
    model.graph.node.append(helper.make_node("QuantizeLinear", ["before", *constants], ["yq"], name="last"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["yq", *constants], ["y"], name="output"))


def _foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["p"], ["u", "v", "w"], name="dynamic"))


def _float_output(model: onnx.ModelProto) -> None:
    for name in ("y/quantize", "y/dequantize"):
        model.graph.node.remove(_node(model, name))
    _node(model, "d").output[0] = "y"


def _read_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Exp", ["c"], ["e"], name="other"))


def _zero_point_behind_a_rectifier(model: onnx.ModelProto) -> None:
    _set(model, "a/zero_point", np.array(3, np.uint8))


def _float_bias(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(16, np.float32), "plain"))
    _node(model, "a").input[2] = "plain"


def _pool_changes_scale(model: onnx.ModelProto) -> None:
    _own_constants(model, "m/quantize", np.array(0.5, np.float32), _zero_of(model))


def _join_changes_scale(model: onnx.ModelProto) -> None:
    _own_constants(model, "j/quantize", np.array(0.5, np.float32), _zero_of(model))


def _zero_of(model: onnx.ModelProto) -> np.ndarray:
    """Zero in the type that the activations of the network have."""
    return np.zeros_like(array(model, "x/zero_point"))


def _float_input(model: onnx.ModelProto) -> None:
    _node(model, "a").input[0] = "x"


def _join_of_two_scales(model: onnx.ModelProto) -> None:
    _own_constants(model, "c/dequantize", np.array(0.5, np.float32), array(model, "c/zero_point"))


def _batch_norm(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("BatchNormalization", ["a", *"uvwz"], ["n"], name="norm"))


_FAULTS: list[tuple[str, Callable[[onnx.ModelProto], None], str]] = [
    ("tensorrt", _zero_point, "'a/quantize' has zero point 3, and tensorrt wants 0"),
    ("tensorrt", _negative_scale, "'a/quantize' has a scale that is not positive and finite"),
    ("tensorrt", _unsigned, "'x/quantize' holds activations as uint8, and tensorrt wants int8"),
    ("tensorrt", _per_channel, "'a/quantize' has a scale for each channel of an activation"),
    ("tensorrt", _integer_bias, "'bias' holds a bias as int32, and the parser of tensorrt rejects that"),
    ("tensorrt", _zero_scale, "'a/quantize' has a scale that is not positive and finite"),
    ("tensorrt", _no_number, "'b/weight/quantize' has a scale that is not positive and finite"),
    (
        "tensorrt",
        _shifted_weights,
        "'b/weight/quantize' holds weights as int8 with a zero point, and tensorrt wants int8",
    ),
    ("tensorrt", _unsigned_weights, "'b/weight/quantize' holds weights as uint8"),
    ("tensorrt", _computed_scale, "'a/quantize' has a scale or zero point that is computed"),
    ("tensorrt", _integer_operator, "'old' is QLinearConv: only QuantizeLinear and DequantizeLinear are portable"),
    ("tensorrt", _half_weights, "'a' (Conv) reads float32 and float16: the parser wants one type"),
    ("tensorrt", _half_scale, "'a' (Conv) reads float16 and float32: the parser wants one type"),
    ("tensorrt", _weight_axis, "'a/weight/dequantize' has its scales along axis 1 of Conv 'a': only axis 0"),
    ("tensorrt", _foreign_operator, "'dynamic' is DynamicQuantizeLinear"),
    (
        "onnxruntime-x86",
        _eight_bits,
        "'b/weight/dequantize' holds the weight 127, and onnxruntime-x86 takes magnitudes up to 64",
    ),
    ("onnxruntime-x86", _signed, "'x/quantize' holds activations as int8, and onnxruntime-x86 wants uint8"),
    ("onnxruntime-x86-vnni", _other_bias_scale, "'a/bias/dequantize' has another scale than input x weight of 'a'"),
]
_SLOW: list[tuple[str, Callable[[onnx.ModelProto], None], str]] = [
    ("tensorrt", _between_convolution_and_activation, "'relu/extra' stands between 'a' and its activation"),
    ("tensorrt", _between_convolution_and_normalization, "'relu/extra' stands between 'a' and its activation"),
    ("tensorrt", _between_sum_and_activation, "'behind/extra' stands between 'sum' and its activation"),
    ("tensorrt", _before_a_sigmoid, "'m/quantize' quantizes the input of 'gate' (Sigmoid), which is computed in float"),
    ("tensorrt", _before_a_softmax, "'m/quantize' quantizes the input of 'share' (Softmax)"),
    ("tensorrt", _around_a_copy, "'turn' (Transpose) only moves values and has a pair on both its sides"),
    ("tensorrt", _pool_into_float, "'mean' (AveragePool) has a pair before it and none behind"),
    ("tensorrt", _pool_changes_scale, "'pool' (MaxPool) has another scale behind it than before it: its values"),
    ("tensorrt", _join_of_two_scales, "'join' (Concat) joins tensors with different scales: each is requantized"),
    ("tensorrt", _join_changes_scale, "'join' (Concat) has another scale behind it than before it"),
    ("tensorrt", _no_pair_on_the_skip, "'sum' (Add) has no pair on the branch that it does not fuse with"),
    ("tensorrt", _the_wrong_branch, "'sum' (Add) has a pair on the branch of its convolution and none on the other"),
    ("tensorrt", _both_branches, "'sum' (Add) has a pair on both branches"),
    ("tensorrt", _on_the_output, "'output' quantizes the output 'y'"),
    ("tensorrt", _float_input, "'a' (Conv) has integer weights and a float input"),
    ("onnxruntime-x86-vnni", _float_output, "'d' (Conv) gives float"),
    ("onnxruntime-x86-vnni", _read_twice, "'c' (Conv) stays float: something reads its output beside QuantizeLinear"),
    ("onnxruntime-x86-vnni", _zero_point_behind_a_rectifier, "'a' (Conv) stays float: with zero point 3 its rectifier"),
    ("onnxruntime-x86-vnni", _float_bias, "'a' (Conv) has a float bias"),
    ("onnxruntime-x86-vnni", _float_input, "'a' (Conv) has integer weights and a float input"),
    ("onnxruntime-x86-vnni", _pool_changes_scale, "'pool' (MaxPool) has another scale behind it"),
    ("onnxruntime-x86-vnni", _join_of_two_scales, "'join' (Concat) joins tensors with different scales"),
    ("onnxruntime-x86-vnni", _batch_norm, "'norm' (BatchNormalization) stays float"),
]


@pytest.mark.parametrize(("dialect", "spoil", "sentence"), _FAULTS, ids=[spoil.__name__ for _, spoil, _ in _FAULTS])
def test_a_fault_is_named(dialect: str, spoil: Callable[[onnx.ModelProto], None], sentence: str) -> None:
    model = _good(dialect)
    assert faults(model, DIALECTS[dialect]) == ()
    spoil(model)
    found = faults(model, DIALECTS[dialect])
    assert any(sentence in text for text in found), found


@pytest.mark.parametrize(("dialect", "spoil", "sentence"), _SLOW, ids=[spoil.__name__ for _, spoil, _ in _SLOW])
def test_a_broken_fusion_is_named_and_is_no_fault(dialect: str, spoil, sentence: str) -> None:
    model = _good(dialect)
    assert lint(model, DIALECTS[dialect]) == ()
    spoil(model)
    found = lint(model, DIALECTS[dialect])
    assert any(sentence in text for text in found), found
    assert faults(model, DIALECTS[dialect]) == ()


def test_the_network_of_one_dialect_is_full_of_faults_in_another() -> None:
    assert any(
        "rejects" in text or "wants int8" in text
        for text in faults(_good("onnxruntime-x86-vnni"), DIALECTS["tensorrt"])
    )
    assert any("up to 64" in text for text in faults(_good("onnxruntime-x86-vnni"), DIALECTS["onnxruntime-x86"]))
    assert any("wants uint8" in text for text in faults(_good("tensorrt"), DIALECTS["onnxruntime-x86"]))
