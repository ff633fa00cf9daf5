"""The TensorRT dialect before NVIDIA's own parser and builder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.builder.graph.small_networks import inputs
from tests.tensorrt_rtx import Rejected, int8_layers

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.layers import layers
from enginewright.graph.lint import faults
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import Scales, calibrate

_TENSORRT = DIALECTS["tensorrt"]


def _scales(model: onnx.ModelProto) -> Scales:
    return calibrate(model, tensors_to_calibrate(model), [inputs(model)], method="percentile")


@pytest.mark.parametrize("capability", ["SM86", "SM89"])
@pytest.mark.parametrize("name", ["residual", "decoder", "tokens"])
def test_the_graph_is_parsed_and_built_and_its_products_run_on_int8(name: str, capability: str, request) -> None:
    model = request.getfixturevalue(name)
    quantized = quantize(model, _scales(model), _TENSORRT)
    integer = {layer.name for layer in layers(quantized) if layer.precision == "int8"}
    in_engine = int8_layers(quantized, capability=capability) & integer
    # TensorRT-RTX 1.7 has no integer kernel for transposed convolutions and says so by making this one float again.
    assert in_engine == integer - {layer.name for layer in layers(quantized) if layer.op == "ConvTranspose"}
    assert len(in_engine) >= 3


def test_the_dialect_of_onnx_runtime_is_rejected_so_the_check_can_fail(residual: onnx.ModelProto) -> None:
    with pytest.raises(Rejected, match=r"[Zz]ero|bias"):
        int8_layers(quantize(residual, _scales(residual), DIALECTS["onnxruntime-x86-vnni"]))


def _set(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _zero_point(model: onnx.ModelProto) -> None:
    _set(model, "relu_1/zero_point", np.array(3, np.int8))


def _zero_scale(model: onnx.ModelProto) -> None:
    _set(model, "relu_1/scale", np.array(0.0, np.float32))


def _negative_scale(model: onnx.ModelProto) -> None:
    _set(model, "relu_1/scale", np.array(-0.1, np.float32))


def _integer_bias(model: onnx.ModelProto) -> None:
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    for name, dtype in (("bias/integer", np.int32), ("bias/scale", np.float32), ("bias/zero", np.int32)):
        model.graph.initializer.append(numpy_helper.from_array(np.full(16, name != "bias/zero", dtype), name))
    back = onnx.helper.make_node(
        "DequantizeLinear", ["bias/integer", "bias/scale", "bias/zero"], ["bias/real"], name="bias", axis=0
    )
    model.graph.node.insert(0, back)
    stem.input[2] = "bias/real"


def _half_weights(model: onnx.ModelProto) -> None:
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(item for item in model.graph.initializer if item.name == stem.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))


def _computed_range(model: onnx.ModelProto) -> None:
    made = onnx.helper.make_node("DynamicQuantizeLinear", ["image"], ["u", "us", "uz"], name="dynamic")
    model.graph.node.insert(0, made)
    model.graph.output.append(onnx.helper.make_tensor_value_info("us", onnx.TensorProto.FLOAT, []))


_SPOILERS = [_zero_point, _zero_scale, _negative_scale, _integer_bias, _half_weights, _computed_range]


@pytest.mark.parametrize("spoil", _SPOILERS, ids=[spoil.__name__ for spoil in _SPOILERS])
def test_what_the_parser_rejects_our_own_check_names_first(
    residual: onnx.ModelProto, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    quantized = quantize(residual, _scales(residual), _TENSORRT)
    assert faults(quantized, _TENSORRT) == ()
    spoil(quantized)
    assert faults(quantized, _TENSORRT)
    with pytest.raises(Rejected):
        int8_layers(quantized)
