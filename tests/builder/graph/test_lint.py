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
    _own_constants(model, "m/quantize", np.array(0.5, np.float32), np.array(0, np.uint8))


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
