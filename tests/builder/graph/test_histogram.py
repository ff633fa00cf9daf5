from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginewright.errors import DataError
from enginewright.graph.histogram import BINS, Histogram


def _of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram("t")
    for part in parts:
        histogram.update(part)
    return histogram


def test_counts_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    histogram = _of(values)
    edges = np.linspace(0.0, histogram.limit, BINS + 1)
    expected, _ = np.histogram(np.abs(values.astype(np.float64)), edges)
    assert histogram.magnitudes().tolist() == expected.tolist()
    assert (histogram.low, histogram.high, histogram.count) == (float(values.min()), float(values.max()), values.size)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=60), st.integers(0, 60))
def test_counts_do_not_depend_on_order_or_batches(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    whole, parts = _of(array), _of(array[:cut], array[cut:])
    backwards = _of(array[::-1][: len(array) - cut], array[::-1][len(array) - cut :])
    for other in (parts, backwards):
        assert other.magnitudes().tolist() == whole.magnitudes().tolist()
        assert (other.low, other.high, other.count, other.zeros) == (whole.low, whole.high, whole.count, whole.zeros)
    assert whole.magnitudes().sum() + whole.zeros == len(values)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=30), min_size=1, max_size=4))
def test_joined_histograms_are_that_of_the_joined_values(parts: list[list[float]]) -> None:
    arrays = [np.array(part, np.float32) for part in parts]
    joined, whole = Histogram.joined("t", [_of(array) for array in arrays]), _of(np.concatenate(arrays))
    assert joined.magnitudes().tolist() == whole.magnitudes().tolist()
    assert (joined.low, joined.high, joined.count, joined.zeros, joined.limit) == (
        whole.low,
        whole.high,
        whole.count,
        whole.zeros,
        whole.limit,
    )


def test_a_larger_value_doubles_the_range_and_loses_no_count() -> None:
    histogram = _of(np.full(1000, 0.75, np.float32))
    assert histogram.limit == 1.0
    histogram.update(np.array([100.0], np.float32))
    assert histogram.limit == 128.0
    filled = np.flatnonzero(histogram.magnitudes())
    assert filled.tolist() == [int(0.75 / histogram.bin_width), int(100 / histogram.bin_width)]
    assert histogram.magnitudes()[filled].tolist() == [1000, 1]


def test_at_least_half_of_the_bins_lie_within_the_largest_magnitude() -> None:
    for largest in (0.50001, 0.75, 0.99999, 1.0):
        histogram = _of(np.array([largest], np.float32))
        assert largest / histogram.bin_width >= BINS / 2


def test_exact_zeros_are_counted_apart() -> None:
    histogram = _of(np.array([0.0, -0.0, 0.0, 1e-6, 2.0], np.float32))
    assert histogram.zeros == 3
    assert histogram.magnitudes().sum() == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name_and_nothing_is_counted(bad: float) -> None:
    histogram = Histogram("stage1.relu")
    with pytest.raises(DataError, match=r"'stage1.relu' holds 1 values that are not finite"):
        histogram.update(np.array([1.0, bad, 2.0], np.float32))
    assert histogram.count == 0
    assert not histogram.magnitudes().any()


def test_memory_is_the_same_whatever_it_has_seen() -> None:
    histogram = _of(np.ones(10, np.float32))
    before = sum(sys.getsizeof(value) for value in vars(histogram).values())
    for exponent in range(0, 60, 7):
        histogram.update(np.full(100_000, 2.0**exponent, np.float32))
    assert sum(sys.getsizeof(value) for value in vars(histogram).values()) <= before + 64
