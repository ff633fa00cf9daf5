"""The networks that every backend must run, made by hand so that each tests one thing, and what they should give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Arrays = Mapping[str, np.ndarray]

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}


def value(name: str, shape: Sequence[int | str] | None, dtype: str = "float32") -> onnx.ValueInfoProto:
    """An input or output; a shape of None is left to be inferred."""
    return helper.make_tensor_value_info(name, _TYPES[dtype], shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Arrays | None = None,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "network", list(inputs), list(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def expected(network: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """What the network gives by the ONNX project's own reference implementation."""
    evaluator = ReferenceEvaluator(network)
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def linear() -> onnx.ModelProto:
    """y = relu(x @ weights), x: float32 [batch, 4]: the smallest network that has a free batch."""
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["product"]), helper.make_node("Relu", ["product"], ["y"])]
    return model(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 3])], {"weights": normal(4, 3)})


def convolutions(*, batch: int | str = "batch", channels: int = 16) -> onnx.ModelProto:
    """A stem, a residual block, global average pooling and a linear head, in the builder's normal form."""
    sizes = {"stem": (channels, 3), "conv1": (channels, channels), "conv2": (channels, channels)}
    constants = {
        f"{name}.weight": normal(outputs, inputs, 3, 3, seed=seed) / np.float32(np.sqrt(9 * inputs))
        for seed, (name, (outputs, inputs)) in enumerate(sizes.items())
    }
    constants |= {f"{name}.bias": normal(outputs, seed=7) / 10 for name, (outputs, _) in sizes.items()}
    constants |= {"head.weight": normal(10, channels, seed=9) / 4, "head.bias": normal(10, seed=10) / 10}

    def conv(name: str, source: str, result: str) -> onnx.NodeProto:
        return helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [result], name=name, pads=[1] * 4)

    nodes = [
        conv("stem", "image", "stem/y"),
        helper.make_node("Relu", ["stem/y"], ["relu0"], name="relu0"),
        conv("conv1", "relu0", "conv1/y"),
        helper.make_node("Relu", ["conv1/y"], ["relu1"], name="relu1"),
        conv("conv2", "relu1", "conv2/y"),
        helper.make_node("Add", ["conv2/y", "relu0"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["relu2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["relu2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    return model(nodes, [value("image", [batch, 3, 12, 12])], [value("logits", [batch, 10])], constants)


def several() -> onnx.ModelProto:
    """Two inputs and three outputs that are in no alphabetical order, one of which is read inside as well."""
    nodes = [
        helper.make_node("Mul", ["right", "two"], ["twice"]),
        helper.make_node("Add", ["left", "twice"], ["sum"]),
        helper.make_node("ReduceMean", ["sum", "axes"], ["mean"], keepdims=0),
    ]
    inputs = [value("right", ["batch", 5]), value("left", ["batch", 5])]
    outputs = [value("twice", ["batch", 5]), value("mean", ["batch"]), value("sum", ["batch", 5])]
    return model(nodes, inputs, outputs, {"two": np.float32([2.0]), "axes": np.int64([1])})


def odd_ends() -> onnx.ModelProto:
    """An input that nothing reads, an output that is an input, and one tensor given out under two names."""
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Abs", ["x"], ["positive"]),
        helper.make_node("Identity", ["positive"], ["again"]),
    ]
    inputs = [value("x", ["batch", 3]), value("unread", [2], "int64")]
    outputs = [value("same", ["batch", 3]), value("positive", ["batch", 3]), value("again", ["batch", 3])]
    return model(nodes, inputs, outputs)


def free_size() -> onnx.ModelProto:
    """A picture of any height, whose output's shape the model leaves to be inferred."""
    nodes = [helper.make_node("Conv", ["x", "weights"], ["y"], pads=[1] * 4)]
    weights = {"weights": normal(2, 1, 3, 3)}
    return model(nodes, [value("x", ["batch", 1, "height", 6])], [value("y", None)], weights)


def typed(dtype: str) -> onnx.ModelProto:
    """Rows of `dtype` put one behind the other, twice: nothing is computed, so nothing may change."""
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]
    return model(nodes, [value("x", ["batch", 3], dtype)], [value("y", ["batch", 6], dtype)])


def values_of(dtype: str) -> np.ndarray:
    """Two rows of three values, with the extremes of the integers up to 32 bits."""
    if dtype == "bool":
        return np.array([[True, False, True], [False, False, True]])
    if dtype.startswith("float"):
        return np.array([[0.5, -1.25, 3.0], [0.0, 100.0, -7.5]], dtype)
    limits = np.iinfo(dtype if np.dtype(dtype).itemsize < 8 else np.int32)
    return np.array([[limits.min, 0, limits.max], [1, 2, 3]], dtype)


def lookup() -> onnx.ModelProto:
    """Rows of a table by whole numbers of 64 bits, as an embedding has them; bools choose between two rows."""
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["row"]),
        helper.make_node("Where", ["wanted", "row", "nothing"], ["y"]),
        helper.make_node("Add", ["index", "one"], ["next"]),
    ]
    inputs = [value("index", ["batch"], "int64"), value("wanted", ["batch", 1], "bool")]
    outputs = [value("y", ["batch", 4]), value("next", ["batch"], "int64")]
    constants = {"table": normal(6, 4), "nothing": np.float32([0.0]), "one": np.int64([1])}
    return model(nodes, inputs, outputs, constants)


def picture() -> onnx.ModelProto:
    """A camera's bytes, made real inside the network."""
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["y"]),
    ]
    inputs, outputs = [value("image", ["batch", 2, 2, 3], "uint8")], [value("y", ["batch", 2, 2, 3])]
    return model(nodes, inputs, outputs, {"scale": np.float32([1 / 255])})


def half() -> onnx.ModelProto:
    """A product in float16."""
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["y"])]
    weights = {"weights": normal(4, 3).astype(np.float16)}
    return model(nodes, [value("x", ["batch", 4], "float16")], [value("y", ["batch", 3], "float16")], weights)


def text() -> onnx.ModelProto:
    """A network that reads text, which no backend runs."""
    nodes = [helper.make_node("Identity", ["words"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in ("words", "y")]
    return model(nodes, values[:1], values[1:])


def with_weights_elsewhere(location: str, *, inside: str) -> onnx.ModelProto:
    """A network whose weights are in the file `location`, and are those of the graph, of a node, or of a graph within."""
    weights = numpy_helper.from_array(normal(4, 3), "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    product = helper.make_node("MatMul", ["x", "weights"], ["y"])
    values = [value("x", ["batch", 4])], [value("y", ["batch", 3])]
    if inside == "graph":
        network = model([product], *values)
        network.graph.initializer.append(weights)
        return network
    constant = helper.make_node("Constant", [], ["weights"], value=weights)
    if inside == "node":
        return model([constant, product], *values)
    branch = helper.make_graph([constant, helper.make_node("Identity", ["weights"], ["chosen"])], "branch", [], [])
    branch.output.append(value("chosen", [4, 3]))
    choice = helper.make_node("If", ["yes"], ["weights"], then_branch=branch, else_branch=branch)
    return model([choice, product], *values, {"yes": np.array(True)})
