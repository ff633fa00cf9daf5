"""A network in float16: the same inputs, outputs and pairs, and nearly the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.builder.graph.small_networks import inputs

from enginewright.errors import DataError
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.execution import open_session
from enginewright.graph.half import in_float16
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(open_session(model, threads=1).run(None, feed))


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    scales = calibrate(model, tensors_to_calibrate(model), [inputs(model)], method="percentile")
    return quantize(model, scales, DIALECTS["tensorrt"])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", ["residual", "decoder", "tokens"])
def test_it_computes_nearly_the_same_from_the_same_inputs(name: str, int8: bool, request) -> None:
    model = request.getfixturevalue(name)
    model = quantized(model) if int8 else model
    half = in_float16(model)
    feed = dict(inputs(model))
    for before, after in zip(run(model, feed), run(half, feed), strict=True):
        assert after.dtype == before.dtype
        assert np.abs(after - before).max() <= 0.03 * np.abs(before).max()


def test_no_float32_is_left_inside_and_every_pair_is_kept(residual: onnx.ModelProto) -> None:
    before = quantized(residual)
    half = in_float16(before)
    assert not [tensor.name for tensor in half.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    count = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in (before, half)]
    assert count[0] == count[1] > 0
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    floats = [
        value.name for value in inferred.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    assert floats == []


def test_the_network_that_came_is_not_changed(residual: onnx.ModelProto) -> None:
    before = residual.SerializeToString()
    in_float16(residual)
    assert residual.SerializeToString() == before


def small(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray], opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "height", "width"])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_an_input_that_is_also_an_output_of_the_first_node_keeps_its_name() -> None:
    model = small(helper.make_node("Relu", ["x"], ["y"], name="relu"), constants={})
    half = in_float16(model)
    x = np.linspace(-2, 2, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(run(half, {"x": x})[0], np.maximum(x, 0), atol=2e-3)


def test_scales_of_a_resize_stay_float32_as_the_operator_demands() -> None:
    resize = helper.make_node("Resize", ["x", "", "scales"], ["y"], name="up", mode="nearest")
    half = in_float16(small(resize, constants={"scales": np.array([1, 1, 2, 2], np.float32)}))
    assert [tensor.data_type for tensor in half.graph.initializer] == [TensorProto.FLOAT]
    assert run(half, {"x": np.ones((1, 1, 4, 4), np.float32)})[0].shape == (1, 1, 8, 8)


def test_casts_and_constants_inside_follow() -> None:
    nodes = [
        helper.make_node("Constant", [], ["half"], name="constant", value_float=0.5),
        helper.make_node("Cast", ["x"], ["whole"], name="whole", to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["back"], name="back", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["back", "half"], ["y"], name="mul"),
    ]
    half = in_float16(small(*nodes, constants={}))
    x = np.full((1, 1, 4, 4), 3.7, np.float32)
    np.testing.assert_array_equal(run(half, {"x": x})[0], np.full((1, 1, 4, 4), 1.5, np.float32))


def test_an_old_opset_is_brought_up() -> None:
    model = small(helper.make_node("Relu", ["x"], ["y"], name="relu"), constants={}, opset=13)
    assert in_float16(model).opset_import[0].version == 19


def test_a_number_that_float16_cannot_hold_is_refused_by_name() -> None:
    add = helper.make_node("Add", ["x", "huge"], ["y"], name="add")
    with pytest.raises(DataError, match="'huge' holds 1e\\+05, and float16 ends at 65504"):
        in_float16(small(add, constants={"huge": np.array([1e5], np.float32)}))
