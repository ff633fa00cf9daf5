"""What ONNX Runtime makes of our pairs: which operators it fuses, what is left over, and that its integer kernels
compute what the graph says.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.builder.graph.small_networks import decibels, inputs

from enginewright.graph.dialects import DIALECTS, onnxruntime_dialect
from enginewright.graph.execution import open_session
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright_runtime import host

_HERE = onnxruntime_dialect(host.machine(), host.instruction_sets())
_FLOAT = {
    "Conv",
    "FusedConv",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "Add",
    "Relu",
    "Concat",
    "MaxPool",
    "GlobalAveragePool",
}


def _quantized(model: onnx.ModelProto, dialect: str) -> onnx.ModelProto:
    scales = calibrate(model, tensors_to_calibrate(model), [inputs(model)], method="percentile")
    return quantize(model, scales, DIALECTS[dialect])


def _engine(
    model: onnx.ModelProto, path: Path, *, disabled: tuple[str, ...] = DIALECTS[_HERE].disabled_optimizers
) -> tuple[onnxruntime.InferenceSession, Counter[str]]:
    """A session with all optimisations but the disabled ones, and the operators of the graph that it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    return session, Counter(node.op_type for node in onnx.load(path).graph.node)


_EXPECTED = {
    "residual": {"QLinearConv": 6, "QLinearAdd": 2, "QLinearGlobalAveragePool": 1, "QGemm": 1, "QuantizeLinear": 1},
    "tokens": {"QGemm": 3, "QuantizeLinear": 1},
    # The transposed convolution has no integer kernel: its input is made float, and what it makes is quantized for
    # the join.
    "decoder": {"QLinearConv": 4, "QLinearConcat": 1, "QuantizeLinear": 2, "ConvTranspose": 1},
}


@pytest.mark.skipif(host.machine() not in ("x86_64", "AMD64"), reason="the kernels of ONNX Runtime differ off x86")
@pytest.mark.parametrize("dialect", ["onnxruntime-x86-vnni", "onnxruntime-x86"])
@pytest.mark.parametrize("name", _EXPECTED)
def test_every_product_and_sum_runs_on_integers(
    name: str, dialect: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    _, operators = _engine(_quantized(request.getfixturevalue(name), dialect), tmp_path / "engine.onnx")
    print(name, dialect, dict(operators))
    expected = _EXPECTED[name]
    assert {operator: operators[operator] for operator in expected} == expected
    assert not (_FLOAT - set(expected)).intersection(operators)
    # What is left over: what a convolution gives out becomes float again, and so does the input of the float operator.
    assert operators["DequantizeLinear"] == (2 if name == "decoder" else 0)


@pytest.mark.parametrize("name", _EXPECTED)
def test_the_integer_kernels_of_this_computer_compute_what_the_graph_says(name: str, request, tmp_path: Path) -> None:
    model = request.getfixturevalue(name)
    quantized = _quantized(model, _HERE)
    batch = inputs(model, samples=64, seed=4)
    session, _ = _engine(quantized, tmp_path / "engine.onnx")
    (engine,) = session.run(None, batch)
    (graph,) = open_session(quantized, threads=1).run(None, batch)
    (reference,) = open_session(model, threads=1).run(None, batch)

    print(name, _HERE, decibels(reference, engine), decibels(reference, graph))
    assert decibels(reference, engine) > 30.0
    # The kernels round in another order, so the two need not agree to the bit; the signal that is left must be the
    # same.
    assert decibels(reference, engine) > decibels(reference, graph) - 1.0


def test_a_layer_that_is_kept_in_float_stays_float_in_the_engine(residual: onnx.ModelProto, tmp_path: Path) -> None:
    scales = calibrate(residual, tensors_to_calibrate(residual), [inputs(residual)], method="percentile")
    quantized = quantize(residual, scales, DIALECTS[_HERE], keep_float=["keep.conv2"])
    _, operators = _engine(quantized, tmp_path / "engine.onnx")
    assert operators["QLinearConv"] == 5
    assert operators["Conv"] + operators["FusedConv"] == 1
    # Why the dialect says what to disable: left to itself, ONNX Runtime quantizes that layer all the same.
    _, untold = _engine(quantized, tmp_path / "untold.onnx", disabled=())
    assert untold["QLinearConv"] == 6


def test_the_tensorrt_dialect_has_a_twin_that_computes_in_float(residual: onnx.ModelProto, tmp_path: Path) -> None:
    quantized = _quantized(residual, "tensorrt")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "twin.onnx")
    options.log_severity_level = 3
    for key, value in DIALECTS["tensorrt"].session_config.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "twin.onnx").graph.node}
    assert not any(operator.startswith("QLinear") for operator in operators)
    batch = inputs(residual, samples=16, seed=4)
    (expected,) = open_session(quantized, threads=1).run(None, batch)
    np.testing.assert_allclose(session.run(None, batch)[0], expected, atol=0.02 * float(np.abs(expected).max()))
