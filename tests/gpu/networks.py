"""A small convolutional network, in float and with the Q/DQ pairs that every TensorRT takes, made with onnx alone."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

CHANNELS = 32
_SEED = 7


def network(*, int8: bool, layers: int = 6, opset: int = 17) -> ModelProto:
    """image [batch, 32, 32, 32] through `layers` convolutions with ReLU to a mean over the image."""
    generator = np.random.default_rng(_SEED)
    constants: list[TensorProto] = []
    nodes = []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def paired(tensor: str, scale: np.ndarray, *, axis: int | None = None) -> str:
        if not int8:
            return tensor
        names = [tensor, constant(f"{tensor}/scale", scale), constant(f"{tensor}/zero", np.zeros(scale.shape, np.int8))]
        options = {} if axis is None else {"axis": axis}
        nodes.append(helper.make_node("QuantizeLinear", names, [f"{tensor}/q"], name=f"{tensor}/quantize", **options))
        back = [f"{tensor}/q", *names[1:]]
        nodes.append(
            helper.make_node("DequantizeLinear", back, [f"{tensor}/dq"], name=f"{tensor}/dequantize", **options)
        )
        return f"{tensor}/dq"

    tensor = "image"
    for index in range(layers):
        weights = generator.normal(0, 0.08, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        scales = (np.abs(weights).reshape(CHANNELS, -1).max(1) / 127).astype(np.float32)
        inputs = [paired(tensor, np.array(4 / 127, np.float32)), paired(constant(f"w{index}", weights), scales, axis=0)]
        inputs.append(constant(f"b{index}", generator.normal(0, 0.1, CHANNELS).astype(np.float32)))
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], name=f"conv{index}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"))
        tensor = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["mean"], name="pool"))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", CHANNELS, 32, 32])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", CHANNELS, 1, 1])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).normal(size=(batch, CHANNELS, 32, 32)).astype(np.float32)
