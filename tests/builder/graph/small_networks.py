"""Hand-made networks for tests of the graph modules, where an exporter would decide too much."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv(name: str, source: str, result: str) -> onnx.NodeProto:
    """A 3x3 convolution that keeps the size, with weights `NAME.weight` and `NAME.bias`."""
    return helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [result], name=name, pads=[1] * 4)


def conv_constants(name: str, inputs: int, outputs: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, inputs, 3, 3)) / np.sqrt(9 * inputs)
    return {
        f"{name}.weight": weight.astype(np.float32),
        f"{name}.bias": random.standard_normal(outputs).astype(np.float32) * 0.1,
    }


def network(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    shape: tuple[int, ...] = (16, 8, 8),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
) -> onnx.ModelProto:
    """A network with the input `x` of free batch; the shapes of its outputs are inferred."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def inputs(model: onnx.ModelProto, *, samples: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """One batch of standard normal inputs."""
    value = model.graph.input[0]
    shape = [size.dim_value for size in value.type.tensor_type.shape.dim][1:]
    return {value.name: np.random.default_rng(seed).standard_normal((samples, *shape)).astype(np.float32)}


def decibels(expected: np.ndarray, actual: np.ndarray) -> float:
    """The signal over the noise."""
    return 10 * float(np.log10(np.square(expected).sum() / np.square(expected - actual).sum()))


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    """The value of an initializer."""
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))
