"""Rounding a layer's weights together loses less of what the layer gives than rounding each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.builder.graph.small_networks import conv_constants, inputs, network

from enginewright.errors import DataError
from enginewright.graph.dialects import DIALECTS, Dialect
from enginewright.graph.execution import open_session
from enginewright.graph.integer_layers import IntegerLayers
from enginewright.graph.lint import lint
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright.graph.rounding import adaptive_rounding, rounded, rounded_together

_EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
RANDOM = np.random.default_rng(5)

Batch = Mapping[str, np.ndarray]


def _correlated(inputs: int, *, rank: int = 4) -> np.ndarray:
    """Second moments as images have them: a few directions hold most of the power."""
    directions = RANDOM.standard_normal((inputs, rank))
    return directions @ directions.T + 0.05 * np.eye(inputs)


def _lost(weights: np.ndarray, integers: np.ndarray, scale: np.ndarray, covariance: np.ndarray) -> float:
    error = weights - integers * scale[:, None]
    return float(np.einsum("oi,ij,oj->", error, covariance, error))


def _smooth(model: onnx.ModelProto, seed: int, samples: int = 64) -> Batch:
    """Inputs whose neighbours are alike, and which have a mean."""
    (name, noise), *_ = inputs(model, samples=samples, seed=seed).items()
    smooth = noise
    for axis in range(2, noise.ndim):
        smooth = smooth + np.roll(smooth, 1, axis) + np.roll(smooth, 2, axis)
    return {name: (smooth + 3.0).astype(np.float32)}


def _quantized(model: onnx.ModelProto, dialect: Dialect, **settings: object) -> onnx.ModelProto:
    scales = calibrate(model, tensors_to_calibrate(model), [_smooth(model, 0)], method="minmax")
    return quantize(model, scales, dialect, **settings)


def _adaptive(model: onnx.ModelProto, quantized: onnx.ModelProto, dialect: Dialect) -> onnx.ModelProto:
    samples = [_smooth(model, 0), _smooth(model, 1)]
    return rounded(quantized, adaptive_rounding(model, quantized, lambda: samples, limit=dialect.weight_limit))


def test_less_is_lost_than_by_rounding_to_the_nearest() -> None:
    weights, covariance = RANDOM.standard_normal((8, 200)), _correlated(200)
    scale = np.abs(weights).max(axis=1) / 64
    together = rounded_together(weights, covariance, scale, 64)
    nearest = np.rint(weights / scale[:, None])
    assert np.abs(together).max() <= 64
    assert np.abs(together - nearest).max() <= 8
    assert _lost(weights, together, scale, covariance) < 0.2 * _lost(weights, nearest, scale, covariance)


def test_no_other_rounding_of_two_weights_loses_less() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        weights, scale = random.uniform(-3, 3, (1, 2)), np.ones(1)
        factor = random.standard_normal((2, 2))
        covariance = factor @ factor.T + 0.5 * np.eye(2)
        together = rounded_together(weights, covariance, scale, 127)
        low = np.floor(weights)
        others = [low + np.array([[first, second]]) for first in (-1, 0, 1, 2) for second in (-1, 0, 1, 2)]
        best = min(_lost(weights, other, scale, covariance) for other in others)
        assert _lost(weights, together, scale, covariance) <= 2.0 * best + 1e-12


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    weights, scale = RANDOM.standard_normal((4, 10)), np.full(4, 0.05)
    together = rounded_together(weights, np.diag(RANDOM.uniform(1, 2, 10)), scale, 127)
    assert np.array_equal(together, np.rint(weights / 0.05))


def test_weights_that_are_zero_stay_zero() -> None:
    weights, covariance = RANDOM.standard_normal((4, 40)), _correlated(40)
    weights[:, ::2] = 0.0  # a 2:4 pattern, or pruned channels
    together = rounded_together(weights, covariance, np.full(4, 0.1), 127)
    assert not together[:, ::2].any()
    assert together[:, 1::2].any()


def test_inputs_that_never_vary_do_no_harm() -> None:
    weights, scale = RANDOM.standard_normal((4, 10)), np.full(4, 0.05)
    assert np.array_equal(rounded_together(weights, np.zeros((10, 10)), scale, 127), np.rint(weights / 0.05))
    covariance = _correlated(10)
    covariance[3] = covariance[:, 3] = 0.0
    assert np.isfinite(rounded_together(weights, covariance, scale, 127)).all()


@_EVERY
@pytest.mark.parametrize("name", ["residual", "decoder"])
def test_each_layer_gives_what_the_float_layer_gives_more_closely(
    name: str, dialect: Dialect, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    quantized = _quantized(model, dialect)
    adaptive = _adaptive(model, quantized, dialect)
    assert lint(adaptive, dialect) == lint(quantized, dialect)
    onnx.checker.check_model(adaptive, full_check=True)
    # Weights alone: on unseen inputs, without the noise of the activations.
    unseen = _smooth(model, 9)
    (expected,) = open_session(model, threads=1).run(None, unseen)
    errors = [
        float(np.square(open_session(_without_pairs(each), threads=1).run(None, unseen)[0] - expected).sum())
        for each in (quantized, adaptive)
    ]
    assert errors[1] < 0.9 * errors[0]


def _without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its integer weights and float activations."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    makers = {node.output[0]: node for node in result.graph.node}
    constants = {tensor.name for tensor in result.graph.initializer}
    for node in result.graph.node:
        for index, tensor in enumerate(node.input):
            pair = makers.get(tensor)
            quantizer = makers.get(pair.input[0]) if pair is not None and pair.op_type == "DequantizeLinear" else None
            if quantizer is not None and quantizer.input[0] not in constants:
                node.input[index] = quantizer.input[0]
    return result


def test_the_scales_and_the_layers_that_are_kept_in_float_stay(residual: onnx.ModelProto) -> None:
    dialect = DIALECTS["onnxruntime-x86"]
    everything, part = _quantized(residual, dialect), _quantized(residual, dialect, keep_float=["keep.*"])
    rounding = adaptive_rounding(residual, everything, lambda: [_smooth(residual, 0)], limit=64)
    mixed = rounded(part, rounding)
    assert [node for node in mixed.graph.node if node.op_type == "Conv"] == [
        node for node in part.graph.node if node.op_type == "Conv"
    ]
    # What a layer is given in the float network does not depend on the precision of others: neither do its integers.
    alone = {layer.name: layer for layer in IntegerLayers(rounded(everything, rounding)).all()}
    layers = IntegerLayers(mixed).all()
    assert 0 < len(layers) < len(alone)
    for layer in layers:
        assert np.array_equal(layer.integers, alone[layer.name].integers)
        assert np.array_equal(layer.scale, alone[layer.name].scale)


def test_layers_without_bias_or_with_another_scale_stay_as_they_are() -> None:
    constants = conv_constants("a", 16, 16)
    del constants["a.bias"]
    model = network([helper.make_node("Conv", ["x", "a.weight"], ["y"], name="a", pads=[1] * 4)], constants)
    dialect = DIALECTS["onnxruntime-x86"]
    assert _adaptive(model, quantized := _quantized(model, dialect), dialect) == quantized


def test_a_layer_that_sees_too_few_rows_is_rounded_to_the_nearest(residual: onnx.ModelProto) -> None:
    dialect = DIALECTS["onnxruntime-x86"]
    quantized = _quantized(residual, dialect)
    few = adaptive_rounding(residual, quantized, lambda: [_smooth(residual, 0, samples=2)], limit=64)
    many = adaptive_rounding(residual, quantized, lambda: [_smooth(residual, 0, samples=200)], limit=64)
    assert set(few) < set(many) == {layer.name for layer in IntegerLayers(quantized).all()}


def test_memory_is_bounded_by_running_over_the_samples_again(
    residual: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = DIALECTS["onnxruntime-x86"]
    quantized = _quantized(residual, dialect)
    asked: list[int] = []

    def batches() -> Iterator[Batch]:
        asked.append(1)
        return iter([_smooth(residual, 0)])

    once = adaptive_rounding(residual, quantized, batches, limit=64)
    assert len(asked) == 1
    monkeypatch.setattr("enginewright.graph.rounding._MOST_BYTES", 1)
    again = adaptive_rounding(residual, quantized, batches, limit=64)
    assert len(asked) == 1 + len(IntegerLayers(quantized).all())
    assert set(once) == set(again)


def test_no_sample_is_an_error(residual: onnx.ModelProto) -> None:
    dialect = DIALECTS["onnxruntime-x86"]
    with pytest.raises(DataError, match="not a single sample"):
        adaptive_rounding(residual, _quantized(residual, dialect), lambda: (), limit=64)
