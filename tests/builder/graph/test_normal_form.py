from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginewright.errors import DataError
from enginewright.graph.normal_form import normal_form

_RANDOM = np.random.default_rng(5)


def _model(nodes: list, input_shape: list, constants: dict[str, np.ndarray], *, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def _check(model: onnx.ModelProto, expected: list[str], *, batch: int = 3) -> onnx.ModelProto:
    """The normal form has these operators, computes the same, is valid, and is its own normal form."""
    result = normal_form(model)
    onnx.checker.check_model(result, full_check=True)
    assert [node.op_type for node in result.graph.node] == expected
    names = [node.name for node in result.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    sizes = [size.dim_value or batch for size in model.graph.input[0].type.tensor_type.shape.dim]
    x = _RANDOM.standard_normal(sizes).astype(np.float32)
    np.testing.assert_allclose(_run(result, x), _run(model, x), rtol=1e-5, atol=1e-6)
    assert normal_form(result) == result
    return result


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 2]])
@pytest.mark.parametrize(("keepdims", "expected"), [(1, ["GlobalAveragePool"]), (0, ["GlobalAveragePool", "Flatten"])])
def test_the_mean_over_height_and_width_is_global_average_pooling(axes, keepdims, expected) -> None:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)
    _check(_model([node], ["batch", 4, 5, 6], {"axes": np.array(axes)}), expected)


def test_the_mean_of_an_older_opset_is_recognised_too() -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3])
    _check(_model([node], ["batch", 4, 5, 6], {}, opset=13), ["GlobalAveragePool"])


@pytest.mark.parametrize("axes", [[1], [1, 2], [2], [1, 2, 3]])
def test_any_other_mean_stays(axes: list[int]) -> None:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"])
    _check(_model([node], ["batch", 4, 5, 6], {"axes": np.array(axes)}), ["ReduceMean"])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_and_a_constant_vector_are_gemm(swapped: bool) -> None:
    weight, bias = _RANDOM.standard_normal((5, 7)).astype(np.float32), np.arange(7, dtype=np.float32)
    terms = ["b", "p"] if swapped else ["p", "b"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", terms, ["y"])]
    _check(_model(nodes, ["batch", 5], {"w": weight, "b": bias}), ["Gemm"])


def test_a_product_of_more_dimensions_stays() -> None:
    weight, bias = _RANDOM.standard_normal((5, 7)).astype(np.float32), np.arange(7, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    _check(_model(nodes, ["batch", 3, 5], {"w": weight, "b": bias}), ["MatMul", "Add"])


def test_a_product_that_something_else_reads_stays() -> None:
    weight, bias = _RANDOM.standard_normal((5, 7)).astype(np.float32), np.arange(7, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["a"]),
        helper.make_node("Mul", ["a", "p"], ["y"]),
    ]
    _check(_model(nodes, ["batch", 5], {"w": weight, "b": bias}), ["MatMul", "Add", "Mul"])


def test_rectifiers_move_before_reshapes_and_reshapes_in_a_row_become_one() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Reshape", ["n", "square"], ["r"]),
        helper.make_node("Relu", ["r"], ["a"]),
        helper.make_node("Reshape", ["a", "flat"], ["y"]),
    ]
    shapes = {"square": np.array([-1, 2, 3]), "flat": np.array([-1, 6])}
    _check(_model(nodes, ["batch", 6], shapes), ["Neg", "Relu", "Reshape"])


def test_a_reshape_that_copies_a_size_keeps_the_one_before_it() -> None:
    nodes = [helper.make_node("Reshape", ["x", "square"], ["r"]), helper.make_node("Reshape", ["r", "copy"], ["y"])]
    shapes = {"square": np.array([-1, 2, 3]), "copy": np.array([-1, 0])}
    _check(_model(nodes, ["batch", 6], shapes), ["Reshape", "Reshape"])


def test_identities_constants_and_what_nobody_reads_are_gone() -> None:
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2, np.float32))),
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Identity", ["i"], ["j"]),
        helper.make_node("Mul", ["j", "two"], ["y"]),
    ]
    result = _check(_model(nodes, ["batch", 6], {"unused": np.zeros(1000, np.float32)}), ["Mul"])
    assert [tensor.name for tensor in result.graph.initializer] == ["two"]


def test_an_identity_that_makes_an_output_stays() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Identity", ["n"], ["y"])]
    _check(_model(nodes, ["batch", 6], {}), ["Neg", "Identity"])


def test_nodes_that_share_a_name_or_have_none_get_names_of_their_own() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="same"),
        helper.make_node("Neg", ["a"], ["b"], name="same"),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    result = normal_form(_model(nodes, ["batch", 6], {}))  # ONNX Runtime refuses the network as it was
    assert [node.name for node in result.graph.node] == ["same", "same_2", "Neg_y"]


def test_the_given_network_is_not_touched() -> None:
    model = _model([helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Neg", ["i"], ["y"])], ["b", 2], {})
    before = model.SerializeToString(deterministic=True)
    normal_form(model)
    assert model.SerializeToString(deterministic=True) == before


def test_an_opset_that_is_too_old_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"opset 11.*need opset 13\n  fix: .*opset_version=13"):
        normal_form(_model([helper.make_node("Neg", ["x"], ["y"])], ["b", 2], {}, opset=11))
