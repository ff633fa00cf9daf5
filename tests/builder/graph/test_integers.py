from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.integers import integer_weights, quantizer
from enginewright.graph.methods import Range
from enginewright.graph.rules import Weights

_FINITE = st.floats(-1e6, 1e6)


def _weights(weight: np.ndarray, bias: np.ndarray | None = None, axis: int = 0) -> Weights:
    return Weights("w", weight.astype(np.float32), axis, "b", None if bias is None else bias.astype(np.float32))


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@given(ends=st.tuples(_FINITE, _FINITE))
def test_every_range_is_covered_to_half_a_step_and_zero_is_exact(dialect, ends: tuple[float, float]) -> None:
    range_ = Range(min(ends), max(ends))
    chosen = quantizer(range_, dialect)
    first, last = dialect.activation_limits
    assert chosen.scale > 0
    assert np.isfinite(np.float32(chosen.scale))
    assert first <= chosen.zero_point <= last
    for value in (range_.low, range_.high, 0.0):
        integer = np.clip(np.rint(value / chosen.scale) + chosen.zero_point, first, last)
        assert abs((integer - chosen.zero_point) * chosen.scale - value) <= 0.501 * chosen.scale + 1e-6 * abs(value)
    assert not (dialect.symmetric and chosen.zero_point)


def test_a_rectified_tensor_has_its_zero_point_at_the_lowest_integer() -> None:
    assert quantizer(Range(0.0, 6.0), DIALECTS["onnxruntime-x86"]).zero_point == 0
    assert quantizer(Range(0.0, 6.0), DIALECTS["onnxruntime-arm"]).zero_point == -128


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_weights_use_the_whole_limit_in_each_channel_and_never_more(dialect) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)) * np.logspace(-4, 4, 8).reshape(8, 1, 1, 1)
    found = integer_weights(_weights(weight), 0.01, dialect)
    assert np.abs(found.weight.astype(int)).max(axis=(1, 2, 3)).tolist() == [dialect.weight_limit] * 8
    back = found.weight * found.scale.reshape(8, 1, 1, 1)
    assert (np.abs(back - weight) <= 0.501 * found.scale.reshape(8, 1, 1, 1)).all()


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_channels_of_zeros_keep_a_positive_scale(dialect) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 2, 1, 1))
    weight[1] = 0.0
    for case in (weight, np.zeros_like(weight)):
        found = integer_weights(_weights(case, np.ones(4)), 0.01, dialect)
        assert (found.scale > 0).all()
        assert np.isfinite(found.scale).all()
        assert not found.weight[1].any()


def test_a_large_bias_beside_tiny_weights_stays_within_int32_and_keeps_its_value() -> None:
    """Pruning and folded batch normalisation leave channels whose weights are nearly zero and whose bias is not."""
    weight = np.full((2, 3, 1, 1), 1e-9)
    weight[1] = 0.5
    bias = np.array([4.0, -0.25])
    found = integer_weights(_weights(weight, bias), 1e-3, DIALECTS["onnxruntime-x86-vnni"])
    assert found.bias is not None
    assert np.abs(found.bias.astype(np.int64)).max() < 2**31
    np.testing.assert_allclose(found.bias * (1e-3 * found.scale.astype(float)), bias, rtol=1e-3)
    assert np.abs(found.weight[1]).max() == 127  # the healthy channel is as exact as before


def test_weights_of_a_denormal_size_do_not_make_a_scale_of_zero() -> None:
    found = integer_weights(_weights(np.full((2, 2), 1e-42), np.zeros(2)), 1e-9, DIALECTS["onnxruntime-x86"])
    assert (np.float32(1e-9) * found.scale > np.finfo(np.float32).tiny).all()


def test_scales_run_along_the_axis_of_the_output_channels() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 5))
    assert integer_weights(_weights(weight, axis=1), 0.1, DIALECTS["tensorrt"]).scale.shape == (5,)
    assert integer_weights(_weights(weight, axis=0), 0.1, DIALECTS["tensorrt"]).scale.shape == (3,)


def test_a_float_bias_is_left_alone_where_the_dialect_wants_it() -> None:
    assert integer_weights(_weights(np.ones((2, 2)), np.ones(2)), 0.1, DIALECTS["tensorrt"]).bias is None
