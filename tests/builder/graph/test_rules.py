"""Each operator rule on a small network of its own: what ONNX Runtime makes of it, and that its integer kernel
computes what the graph says.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from tests.builder.graph.small_networks import decibels, inputs, network

from enginewright.graph.dialects import DIALECTS, onnxruntime_dialect
from enginewright.graph.execution import open_session
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright_runtime import host

_HERE = DIALECTS[onnxruntime_dialect(host.machine(), host.instruction_sets())]
_RANDOM = np.random.default_rng(11)


def _weight(*shape: int) -> np.ndarray:
    return (_RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def _first() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """x -> a: a convolution with its rectifier, so that what follows has integers to read."""
    nodes = [
        helper.make_node("Conv", ["x", "first.w"], ["first"], name="first"),
        helper.make_node("Relu", ["first"], ["a"], name="r"),
    ]
    return nodes, {"first.w": _weight(16, 16, 1, 1)}


def _last(source: str, channels: int = 16) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """`source` -> y: a convolution, so that what came before has a reader of integers."""
    return [helper.make_node("Conv", [source, "last.w"], ["y"], name="last")], {"last.w": _weight(16, channels, 1, 1)}


def _between(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], *, channels: int = 16) -> onnx.ModelProto:
    """A network with `nodes` from a to b between two convolutions."""
    (first, weights), (last, more) = _first(), _last("b", channels)
    return network([*first, *nodes, *last], {**weights, **constants, **more})


def _product(op: str, shape: tuple[int, ...], *constants: np.ndarray, **attributes: object) -> onnx.ModelProto:
    names = [f"c{index}" for index in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], name="product", **attributes)
    return network([node], dict(zip(names, constants, strict=True)), shape=shape)


_CASES: dict[str, tuple[onnx.ModelProto, str]] = {
    "conv": (_product("Conv", (16, 8, 8), _weight(16, 16, 3, 3), _weight(16)), "QLinearConv"),
    "conv of one dimension": (_product("Conv", (16, 24), _weight(16, 16, 3), _weight(16)), "QLinearConv"),
    "conv without bias": (_product("Conv", (16, 8, 8), _weight(16, 16, 3, 3)), "QLinearConv"),
    "depthwise conv": (_product("Conv", (16, 8, 8), _weight(16, 1, 3, 3), _weight(16), group=16), "QLinearConv"),
    "grouped conv": (_product("Conv", (16, 8, 8), _weight(32, 8, 3, 3), _weight(32), group=2), "QLinearConv"),
    "conv with same padding": (
        _product("Conv", (16, 9, 9), _weight(16, 16, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        "QLinearConv",
    ),
    "dilated conv": (_product("Conv", (16, 9, 9), _weight(16, 16, 3, 3), dilations=[2, 2]), "QLinearConv"),
    "gemm": (_product("Gemm", (32,), _weight(32, 16), _weight(16)), "QGemm"),
    "gemm of transposed weights": (_product("Gemm", (32,), _weight(16, 32), _weight(16), transB=1), "QGemm"),
    "gemm without bias": (_product("Gemm", (32,), _weight(16, 32), transB=1), "QGemm"),
    "matmul": (_product("MatMul", (5, 32), _weight(32, 16)), "MatMulIntegerToFloat"),
    "relu6": (
        _between(
            [
                helper.make_node("Conv", ["a", "m.w"], ["q"], name="middle"),
                helper.make_node("Clip", ["q", "zero", "six"], ["b"], name="relu6"),
            ],
            {"m.w": _weight(16, 16, 1, 1), "zero": np.array(0, np.float32), "six": np.array(6, np.float32)},
        ),
        "QLinearConv",
    ),
    "residual sum": (
        _between(
            [
                helper.make_node("Conv", ["a", "m.w"], ["q"], name="middle"),
                helper.make_node("Add", ["q", "a"], ["b"], name="sum"),
            ],
            {"m.w": _weight(16, 16, 1, 1)},
        ),
        "QLinearAdd",
    ),
    "max pool": (
        _between([helper.make_node("MaxPool", ["a"], ["b"], name="pool", kernel_shape=[2, 2])], {}),
        "NhwcMaxPool",
    ),
    "average pool": (
        _between([helper.make_node("AveragePool", ["a"], ["b"], name="pool", kernel_shape=[2, 2])], {}),
        "QLinearAveragePool",
    ),
    "global average pool": (
        _between([helper.make_node("GlobalAveragePool", ["a"], ["b"], name="pool")], {}),
        "QLinearGlobalAveragePool",
    ),
    "concat": (
        _between(
            [
                helper.make_node("Conv", ["a", "m.w"], ["q"], name="middle"),
                helper.make_node("Concat", ["q", "a"], ["b"], name="join", axis=1),
            ],
            {"m.w": _weight(16, 16, 1, 1)},
            channels=32,
        ),
        "QLinearConcat",
    ),
    "transpose": (
        _between([helper.make_node("Transpose", ["a"], ["b"], name="swap", perm=[0, 1, 3, 2])], {}),
        "Transpose",
    ),
    "reshape": (
        _between([helper.make_node("Reshape", ["a", "shape"], ["b"], name="r2")], {"shape": np.array([-1, 16, 4, 16])}),
        "Reshape",
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_the_operator_runs_on_integers_and_computes_what_the_graph_says(case: str, tmp_path: Path) -> None:
    model, expected = _CASES[case]
    batch = inputs(model, samples=32)
    scales = calibrate(model, tensors_to_calibrate(model), [batch], method="minmax")
    quantized = quantize(model, scales, _HERE)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "engine.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        quantized.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(_HERE.disabled_optimizers),
    )
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "engine.onnx").graph.node)
    assert operators[expected]
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Concat"}.intersection(operators), (
        operators
    )
    assert operators["QuantizeLinear"] == 1, operators  # at the input, and nowhere else
    (engine,) = session.run(None, batch)
    (graph,) = open_session(quantized, threads=1).run(None, batch)
    (reference,) = open_session(model, threads=1).run(None, batch)

    assert decibels(reference, engine) > 30.0
    assert decibels(reference, engine) > decibels(reference, graph) - 1.0


_STAYS_FLOAT: dict[str, tuple[onnx.ModelProto, str]] = {
    "weights that are computed": (
        network(
            [
                helper.make_node("Neg", ["w"], ["v"], name="neg"),
                helper.make_node("MatMul", ["x", "v"], ["y"], name="product"),
            ],
            {"w": _weight(8, 4)},
            shape=(3, 8),
        ),
        "its weights are computed or not a float32 matrix",
    ),
    "a product of two activations": (
        network(
            [
                helper.make_node("Neg", ["x"], ["v"], name="neg"),
                helper.make_node("MatMul", ["x", "v"], ["y"], name="product"),
            ],
            {},
            shape=(8, 8),
        ),
        "its weights are computed or not a float32 matrix",
    ),
    "a gemm that scales": (
        _product("Gemm", (32,), _weight(32, 16), _weight(16), alpha=0.5),
        "it scales or transposes its input",
    ),
    "a gemm with a matrix for a bias": (
        network(
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product")],
            {"w": _weight(32, 4), "b": _weight(1, 1)},
            shape=(32,),
        ),
        "its bias is not one number a channel",
    ),
}


@pytest.mark.parametrize("case", _STAYS_FLOAT)
def test_a_product_that_has_no_integer_kernel_stays_float_with_its_reason(case: str) -> None:
    from enginewright.graph.placement import place

    model, reason = _STAYS_FLOAT[case]
    assert place(model, _HERE).kept_float == {"product": reason}


def test_a_convolution_with_few_channels_stays_float_for_tensorrt_with_its_reason() -> None:
    from enginewright.graph.placement import place

    model = _product("Conv", (3, 8, 8), _weight(16, 3, 3, 3))
    assert place(model, DIALECTS["tensorrt"]).kept_float == {"product": "it has 3 channels, fewer than 16"}
    assert place(model, _HERE).kept_float == {}
