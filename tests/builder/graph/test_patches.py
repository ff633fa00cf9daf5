"""The rows of a layer's matrix product: times the weights they give what the layer gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.builder.graph.small_networks import network

from enginewright.graph.execution import open_session
from enginewright.graph.patches import product_of
from enginewright.graph.topology import Topology

RANDOM = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def model_of(node: onnx.NodeProto, constant: np.ndarray, shape: tuple[int, ...]) -> onnx.ModelProto:
    return network([node], {"w": constant}, shape=shape)


def conv(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], name="layer", **attributes)


_LAYERS = {
    "plain": (conv(), weight(6, 4, 3, 3), (4, 7, 9)),
    "padded": (conv(pads=[1, 0, 2, 1]), weight(6, 4, 3, 2), (4, 7, 9)),
    "strided": (conv(strides=[2, 3], pads=[1, 1, 1, 1]), weight(6, 4, 3, 3), (4, 8, 9)),
    "dilated": (conv(dilations=[2, 1]), weight(6, 4, 3, 3), (4, 8, 9)),
    "in groups": (conv(group=2), weight(6, 2, 3, 3), (4, 7, 9)),
    "depthwise": (conv(group=4, pads=[1] * 4), weight(8, 1, 3, 3), (4, 7, 9)),
    "one dimension": (conv(pads=[1, 1]), weight(6, 4, 3), (4, 9)),
    "three dimensions": (conv(), weight(5, 2, 2, 2, 2), (2, 4, 4, 4)),
    "Gemm": (helper.make_node("Gemm", ["x", "w"], ["y"], name="layer"), weight(5, 7), (5,)),
    "Gemm, transposed": (helper.make_node("Gemm", ["x", "w"], ["y"], name="layer", transB=1), weight(7, 5), (5,)),
    "MatMul of tokens": (helper.make_node("MatMul", ["x", "w"], ["y"], name="layer"), weight(5, 7), (11, 5)),
}


@pytest.mark.parametrize("name", _LAYERS)
def test_rows_times_weights_are_the_output(name: str) -> None:
    node, constant, shape = _LAYERS[name]
    model = model_of(node, constant, shape)
    values = RANDOM.standard_normal((3, *shape)).astype(np.float32)
    (expected,) = open_session(model, threads=1).run(None, {"x": values})
    product = product_of(model.graph.node[0], Topology(model))
    assert product is not None
    rows = product.rows(values, 10_000, np.random.default_rng(0))
    made = np.matmul(rows, product.weights(constant.astype(np.float64)).transpose(0, 2, 1))
    channels = expected.shape[1] if node.op_type == "Conv" else expected.shape[-1]
    flat = np.moveaxis(expected, 1 if node.op_type == "Conv" else -1, -1).reshape(-1, channels)
    np.testing.assert_allclose(np.concatenate(list(made), axis=1), flat, atol=1e-4)


@pytest.mark.parametrize("name", _LAYERS)
def test_a_weight_comes_back_from_its_matrix(name: str) -> None:
    node, constant, shape = _LAYERS[name]
    product = product_of(node, Topology(model_of(node, constant, shape)))
    assert product is not None
    matrix = product.weights(constant.astype(np.float64))
    assert np.array_equal(product.weight_tensor(matrix, constant.shape), constant)


def test_where_there_are_many_positions_some_are_drawn_anew_for_each_batch() -> None:
    node, constant, shape = _LAYERS["plain"]
    product = product_of(node, Topology(model_of(node, constant, shape)))
    assert product is not None
    values, random = RANDOM.standard_normal((3, *shape)).astype(np.float32), np.random.default_rng(0)
    first, second = (product.rows(values, 5, random) for _ in range(2))
    assert first.shape == second.shape == (1, 3 * 5, 4 * 9)
    assert not np.array_equal(first, second)
    everything = {row.tobytes() for row in product.rows(values, 10_000, random)[0]}
    assert {row.tobytes() for row in first[0]} <= everything


def test_what_is_no_plain_product_has_no_rows() -> None:
    same = model_of(conv(auto_pad="SAME_UPPER"), weight(6, 4, 3, 3), (4, 7, 9))
    transposed = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="layer")
    for model in (same, model_of(transposed, weight(4, 6, 2, 2), (4, 7, 9))):
        assert product_of(model.graph.node[0], Topology(model)) is None
