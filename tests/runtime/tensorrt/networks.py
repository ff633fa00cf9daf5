"""The tiny bundle's network with names for its nodes, with and without a Q/DQ pair."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tests.runtime.tiny_bundle import WEIGHTS

PAIR = ("x/quantize", "x/dequantize")


def product(*, quantized: bool, activation: str = "Relu") -> bytes:
    """y = relu(x @ WEIGHTS), x: float32 [batch, 4]; quantized, x is rounded to thirds."""
    constants = [numpy_helper.from_array(WEIGHTS, "weights")]
    nodes = []
    if quantized:
        constants += [
            numpy_helper.from_array(np.array(1 / 3, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["integers"], name=PAIR[0]),
            helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["rounded"], name=PAIR[1]),
        ]
    nodes += [
        helper.make_node("MatMul", ["rounded" if quantized else "x", "weights"], ["product"], name="product"),
        helper.make_node(activation, ["product"], ["y"], name="rectify"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
