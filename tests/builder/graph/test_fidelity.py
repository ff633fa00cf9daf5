from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.builder.graph.small_networks import conv, conv_constants, inputs, network

from enginewright.errors import DataError
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.execution import open_session
from enginewright.graph.fidelity import CEILING_DB, signal_to_noise
from enginewright.graph.layers import layers
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate


def _pair(model: onnx.ModelProto, dialect: str = "onnxruntime-x86-vnni") -> onnx.ModelProto:
    scales = calibrate(model, tensors_to_calibrate(model), [inputs(model)], method="minmax")
    return quantize(model, scales, DIALECTS[dialect])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_int8_layer_and_every_output_has_a_figure(dialect: str, residual: onnx.ModelProto, batches) -> None:
    quantized = _pair(residual, dialect)
    found = signal_to_noise(residual, quantized, batches(residual, seed=3))
    integer = {layer.name for layer in layers(quantized) if layer.precision == "int8"}
    assert set(found) == {*integer, "result"}
    assert all(20.0 < value < 70.0 for value in found.values())


def test_the_figure_at_the_output_is_that_of_the_definition(residual: onnx.ModelProto, batches) -> None:
    quantized = _pair(residual)
    expected, actual = (
        np.concatenate(
            [open_session(model, threads=1).run(["result"], batch)[0] for batch in batches(residual, seed=3)]
        )
        for model in (residual, quantized)
    )
    plain = 10 * np.log10(np.square(expected).sum() / np.square(expected - actual).sum())
    assert signal_to_noise(residual, quantized, batches(residual, seed=3))["result"] == pytest.approx(plain, abs=1e-3)


def test_the_figure_of_a_layer_that_makes_an_output_is_there_too() -> None:
    nodes = [conv("a", "x", "h"), helper.make_node("Relu", ["h"], ["r"], name="relu"), conv("b", "r", "y")]
    model = network(nodes, {**conv_constants("a", 16, 16), **conv_constants("b", 16, 16, seed=1)})
    found = signal_to_noise(model, _pair(model), [inputs(model, seed=1)])
    assert set(found) == {"a", "b", "y"}
    assert found["b"] == found["y"]


def test_seven_bit_weights_cost_signal(residual: onnx.ModelProto, batches) -> None:
    full, reduced = (_pair(residual, name) for name in ("onnxruntime-x86-vnni", "onnxruntime-x86"))
    names = [layer.name for layer in layers(full) if layer.precision == "int8"]
    eight = signal_to_noise(residual, full, batches(residual))
    seven = signal_to_noise(residual, reduced, batches(residual))
    assert np.mean([eight[name] - seven[name] for name in names]) > 1.0


def test_a_network_compared_with_itself_gets_the_ceiling_not_infinity(residual: onnx.ModelProto, batches) -> None:
    assert signal_to_noise(residual, residual, batches(residual)) == {"result": CEILING_DB}


def test_batches_are_summed_and_not_kept(residual: onnx.ModelProto, batches) -> None:
    quantized = _pair(residual)
    many = signal_to_noise(residual, quantized, batches(residual, samples=64, size=4))
    one = signal_to_noise(residual, quantized, batches(residual, samples=64, size=64))
    assert many.keys() == one.keys()  # the values differ, since another batch size draws other numbers

    batch = inputs(residual, samples=32)
    halves = [{"image": batch["image"][:16]}, {"image": batch["image"][16:]}]
    whole, parts = signal_to_noise(residual, quantized, [batch]), signal_to_noise(residual, quantized, halves)
    assert parts == pytest.approx(whole, abs=0.01)


def test_no_sample_is_an_error(residual: onnx.ModelProto) -> None:
    with pytest.raises(DataError, match="not a single sample"):
        signal_to_noise(residual, _pair(residual), [])
