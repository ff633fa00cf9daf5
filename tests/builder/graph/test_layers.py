from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginewright.errors import DataError
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.layers import Layer, layers, layers_to_json, total_macs
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate


def _one(op: str, shape: list, *constants: tuple[int, ...], **attributes: object) -> onnx.ModelProto:
    names = [f"c{index}" for index in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], name="layer", **attributes)
    tensors = [
        numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in zip(names, constants, strict=True)
    ]
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in (("x", shape), ("y", None))
    ]
    graph = helper.make_graph([node], "one", [value[0]], [value[1]], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("model", "macs", "weights", "output_shape"),
    [
        (_one("Conv", ["n", 3, 8, 8], (16, 3, 3, 3), (16,), pads=[1] * 4), 16 * 3 * 9 * 64, 448, (1, 16, 8, 8)),
        (
            _one("Conv", ["n", 3, 8, 8], (16, 3, 3, 3), pads=[1] * 4, strides=[2, 2]),
            16 * 3 * 9 * 16,
            432,
            (1, 16, 4, 4),
        ),
        (_one("Conv", ["n", 8, 8, 8], (8, 1, 3, 3), pads=[1] * 4, group=8), 8 * 9 * 64, 72, (1, 8, 8, 8)),
        (_one("Conv", ["n", 8, 8, 8], (6, 4, 1, 1), group=2), 6 * 4 * 64, 24, (1, 6, 8, 8)),
        (_one("Conv", ["n", 4, 10], (6, 4, 3)), 6 * 4 * 3 * 8, 72, (1, 6, 8)),
        (_one("ConvTranspose", ["n", 8, 5, 5], (8, 4, 2, 2), strides=[2, 2]), 8 * 4 * 4 * 25, 128, (1, 4, 10, 10)),
        (_one("Gemm", ["n", 12], (7, 12), (7,), transB=1), 84, 91, (1, 7)),
        (_one("Gemm", ["n", 12], (12, 7)), 84, 84, (1, 7)),
        (_one("MatMul", ["n", 5, 12], (12, 7)), 5 * 84, 84, (1, 5, 7)),
        (_one("Conv", [4, 3, 8, 8], (16, 3, 1, 1)), 4 * 16 * 3 * 64, 48, (4, 16, 8, 8)),  # a batch that is fixed stays
    ],
)
def test_multiply_accumulates_and_weights_are_those_of_the_definition(model, macs, weights, output_shape) -> None:
    (layer,) = layers(model)
    assert (layer.macs, layer.weights, layer.output_shape) == (macs, weights, output_shape)
    assert layer.weight_bytes == 4 * weights
    assert (layer.name, layer.precision, layer.snr_db) == ("layer", "float32", None)


def test_the_residual_network_adds_up(residual: onnx.ModelProto) -> None:
    expected = 16 * 16 * (16 * 27 + 2 * 16 * 144) + 8 * 8 * (32 * 144 + 32 * 288 + 32 * 16) + 32 * 10
    assert total_macs(layers(residual)) == expected


def test_quantizing_changes_precision_and_bytes_but_not_the_work(residual: onnx.ModelProto, batches) -> None:
    scales = calibrate(residual, tensors_to_calibrate(residual), batches(residual), method="minmax")
    before = {layer.name: layer for layer in layers(residual)}
    for dialect in DIALECTS.values():
        after = {layer.name: layer for layer in layers(quantize(residual, scales, dialect))}
        assert {name: (layer.macs, layer.weights) for name, layer in after.items()} == {
            name: (layer.macs, layer.weights) for name, layer in before.items()
        }
        for name, layer in after.items():
            if layer.precision == "int8":
                assert layer.weight_bytes < 0.35 * before[name].weight_bytes
            else:
                assert layer.weight_bytes == before[name].weight_bytes
    assert {layer.precision for layer in before.values()} == {"float32"}


def test_a_free_size_beside_the_batch_is_an_error_that_names_input_and_dimension() -> None:
    with pytest.raises(DataError, match=r"input 'x' has no fixed size in dimension 2 \('height'\)"):
        layers(_one("Conv", ["n", 3, "height", 8], (16, 3, 1, 1)))


def test_shapes_that_contradict_each_other_are_an_error() -> None:
    with pytest.raises(DataError, match="shapes of the network cannot be inferred"):
        layers(_one("Gemm", ["n", 12], (13, 7)))


def test_an_unknown_operator_in_the_way_is_an_error_that_names_the_tensor() -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["h"], domain="somewhere.else"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="product"),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.ones((4, 4), np.float32), "w")]
    graph = helper.make_graph(nodes, "foreign", [value[0]], [value[1]], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("somewhere.else", 1)]
    with pytest.raises(DataError, match="shape of tensor 'h' cannot be inferred"):
        layers(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def test_the_json_form_is_plain_json() -> None:
    table = [Layer("a", "Conv", 1, 2, 3, (1, 2), "int8", 30.5)]
    assert json.loads(json.dumps(layers_to_json(table), allow_nan=False)) == {
        "format": 1,
        "layers": [
            {
                "name": "a",
                "op": "Conv",
                "macs": 1,
                "weights": 2,
                "weight_bytes": 3,
                "output_shape": [1, 2],
                "precision": "int8",
                "snr_db": 30.5,
            }
        ],
    }
