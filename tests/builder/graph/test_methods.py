"""Each calibration method against a plain reference that is written from its definition, and against its paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from enginewright.errors import DataError
from enginewright.graph.histogram import Histogram
from enginewright.graph.methods import METHODS, Range, choose_range

_RANDOM = np.random.default_rng(7)
_TENSORS = {
    "normal": _RANDOM.standard_normal(60_000),
    "relu of normal": np.maximum(_RANDOM.standard_normal(60_000), 0.0),
    "relu with outliers": np.concatenate([np.maximum(_RANDOM.standard_normal(60_000), 0.0), [40.0, 55.0, 60.0]]),
    "laplace": _RANDOM.laplace(size=60_000) * 1e-3,
    "uniform": _RANDOM.uniform(-3, 5, 60_000),
}


def _histogram(values: np.ndarray) -> Histogram:
    histogram = Histogram("t")
    histogram.update(values.astype(np.float32))
    return histogram


def _plain_kl(counts: np.ndarray, kept: int) -> float:
    """KL(P, Q) for the first `kept` bins, step by step as on Migacz' slides."""
    reference = counts[:kept].astype(float)
    if not reference.any():
        return math.inf
    reference[max(index for index in range(kept) if counts[index] > 0)] += counts[kept:].sum()
    candidate = np.zeros(kept)
    for level in range(128):
        first, last = level * kept // 128, (level + 1) * kept // 128
        filled = [index for index in range(first, last) if counts[index] > 0]
        for index in filled:
            candidate[index] = counts[first:last].sum() / len(filled)
    reference, candidate = reference / reference.sum(), candidate / candidate.sum()
    total = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p > 0:
            total += p * math.log(p / q)
    return total


@pytest.mark.parametrize("name", _TENSORS)
def test_entropy_finds_the_smallest_divergence_of_the_plain_reference(name: str) -> None:
    histogram = _histogram(_TENSORS[name])
    counts, width = histogram.magnitudes(), histogram.bin_width
    used = int(np.flatnonzero(counts)[-1]) + 1
    while counts.sum() / used < 16:  # bins that hold less than 16 values on average are joined
        counts = np.array([counts[index] + counts[index + 1] for index in range(0, len(counts), 2)])
        width, used = 2 * width, (used + 1) // 2
    assert used > 256  # the case tests something
    kept = min(round(METHODS["entropy"](histogram) / width), used)
    # All candidates of the reference would take a minute: every 8th of them, and the neighbours of what was chosen.
    candidates = {*range(128, used + 1, 8), *(value for value in (kept - 1, kept + 1, used) if 128 <= value <= used)}
    assert _plain_kl(counts, kept) <= min(_plain_kl(counts, value) for value in candidates) + 1e-12


_TAILS = {
    "normal": _RANDOM.standard_normal(400_000),
    "laplace": _RANDOM.laplace(size=400_000),
    "student t, 4 degrees": _RANDOM.standard_t(4, 400_000),
    "relu of student t, 3 degrees": np.maximum(_RANDOM.standard_t(3, 400_000), 0.0),
    "log-normal": _RANDOM.lognormal(size=400_000),
    "uniform": _RANDOM.uniform(0, 1, 400_000),
}


def _as_on_the_slides(bins: np.ndarray, width: float) -> float:
    """Migacz, "8-bit inference with TensorRT", GTC 2017, the slide "Pseudocode: entropy calibration", line by line."""
    divergence = {}
    for i in range(128, len(bins) + 1):
        reference_distribution_p = bins[:i].astype(float)
        outliers_count = bins[i:].sum()
        reference_distribution_p[i - 1] += outliers_count
        reference_distribution_p /= reference_distribution_p.sum()
        starts = np.arange(128) * i // 128  # quantize the bins into 128 levels, then expand to i bins
        levels, filled = np.add.reduceat(bins[:i], starts), np.add.reduceat((bins[:i] > 0).astype(int), starts)
        each = np.repeat(levels / np.maximum(filled, 1), np.diff([*starts, i]))
        candidate_distribution_q = np.where(bins[:i] > 0, each, 0.0)
        candidate_distribution_q /= candidate_distribution_q.sum()
        some = reference_distribution_p > 0
        with np.errstate(divide="ignore"):
            ratio = reference_distribution_p[some] / candidate_distribution_q[some]
        divergence[i] = float((reference_distribution_p[some] * np.log(ratio)).sum())
    m = min(divergence, key=lambda i: divergence[i])
    return (m + 0.5) * width


@pytest.mark.parametrize(
    "density",
    [
        lambda x: np.exp(-(x**2) / 2),
        lambda x: np.exp(-x),
        lambda x: 1 / (1 + x**2 / 3) ** 2,  # Student's t with 3 degrees of freedom
        lambda x: np.where(x < 1, 1.0, 1e-4),
        lambda x: np.ones_like(x),
    ],
    ids=["normal", "exponential", "student", "box with a tail", "uniform"],
)
def test_entropy_is_the_procedure_on_the_slides_where_no_bin_is_empty(density: Any) -> None:
    """Where some are, the slides add the outliers to an empty bin, whose divergence is infinite: we do not."""
    centres = (np.arange(2500) + 0.5) * 2.0**-8
    shares = density(centres)
    values = np.repeat(centres, np.ceil(shares / shares.sum() * 400_000).astype(int))
    histogram = _histogram(values)
    counts, width = histogram.magnitudes(), histogram.bin_width
    counts = counts[: int(np.flatnonzero(counts)[-1]) + 1]
    assert counts.all()
    assert len(counts) == 2500
    assert METHODS["entropy"](histogram) == pytest.approx(_as_on_the_slides(counts, width), abs=width)


@pytest.mark.parametrize("name", ["student t, 4 degrees", "relu of student t, 3 degrees", "log-normal"])
def test_entropy_clips_a_long_tail(name: str) -> None:
    values = np.abs(_TAILS[name])
    threshold = METHODS["entropy"](_histogram(_TAILS[name]))
    assert threshold < 0.5 * values.max()
    assert (values <= threshold).mean() > 0.998


def test_entropy_of_few_values_cuts_nothing_by_chance() -> None:
    values = np.random.default_rng(3).standard_normal(500)
    assert METHODS["entropy"](_histogram(values)) >= 0.8 * np.abs(values).max()


def test_entropy_really_clips_outliers() -> None:
    values = _TENSORS["relu with outliers"]
    assert METHODS["entropy"](_histogram(values)) < 0.2 * values.max()


@pytest.mark.parametrize("name", _TENSORS)
def test_mse_is_within_two_percent_of_the_best_error_on_the_values_themselves(name: str) -> None:
    values = _TENSORS[name].astype(np.float32).astype(np.float64)

    def error(threshold: float, steps: int) -> float:
        step = threshold / steps
        return float(np.mean((values - np.clip(np.rint(values / step) * step, -threshold, threshold)) ** 2))

    def product(threshold: float) -> float:
        return error(threshold, 127) * (error(threshold, 255) if values.min() >= 0 else 1.0)

    best = min(product(top) for top in np.linspace(0.02, 1.0, 393) * np.abs(values).max())
    assert product(METHODS["mse"](_histogram(values))) <= 1.02 * best


@pytest.mark.parametrize(("name", "best"), [("normal", 3.92), ("laplace", 9.89)])
def test_mse_finds_the_threshold_of_the_literature(name: str, best: float) -> None:
    """Banner, Nahshan and Soudry, "Post training 4-bit quantization of convolutional networks for rapid-deployment"
    (NeurIPS 2019): the best threshold for 8 bits, in standard deviations of a normal distribution and in scales of a
    Laplace distribution. Near it the error is flat.
    """
    draws = np.random.default_rng(11).standard_normal(3_000_000) if name == "normal" else _laplace_quantiles()
    assert METHODS["mse"](_histogram(draws)) == pytest.approx(best, rel=0.03)


def _laplace_quantiles() -> np.ndarray:
    """A sample of a Laplace distribution without chance."""
    shares = (np.arange(2_000_000) + 0.5) / 2_000_000
    return np.where(shares < 0.5, np.log(2 * shares), -np.log(2 * (1 - shares)))


def test_mse_covers_more_of_a_relu_than_symmetric_integers_alone_would_want() -> None:
    one_sided, two_sided = _TENSORS["relu of normal"], np.concatenate([_TENSORS["relu of normal"], [-1e-3]])
    assert METHODS["mse"](_histogram(one_sided)) >= METHODS["mse"](_histogram(two_sided))


@pytest.mark.parametrize("name", _TENSORS)
def test_percentile_keeps_9999_of_10000_values(name: str) -> None:
    values = np.abs(_TENSORS[name])
    histogram = _histogram(values)
    threshold = METHODS["percentile"](histogram)
    exact = np.sort(values)[math.ceil(0.9999 * values.size) - 1]
    assert exact <= threshold * (1 + 1e-6)
    assert threshold <= exact + histogram.bin_width + 1e-12


@pytest.mark.parametrize("name", _TAILS)
def test_percentile_is_numpys_to_within_a_bin(name: str) -> None:
    values = np.abs(_TAILS[name].astype(np.float32))
    histogram = _histogram(_TAILS[name])
    expected = float(np.quantile(values, 0.9999, method="inverted_cdf"))
    assert METHODS["percentile"](histogram) == pytest.approx(expected, abs=histogram.bin_width)


def test_minmax_is_exact() -> None:
    values = _TENSORS["uniform"].astype(np.float32)
    assert choose_range(_histogram(values), "minmax") == Range(float(values.min()), float(values.max()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", _TENSORS)
def test_no_range_reaches_beyond_what_was_seen_and_zero_lies_in_each(method: str, name: str) -> None:
    values = _TENSORS[name].astype(np.float32)
    range_ = choose_range(_histogram(values), method)
    assert min(float(values.min()), 0.0) <= range_.low <= 0.0 <= range_.high <= float(values.max())
    assert range_.high > 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_gets_a_small_range_that_can_be_used(method: str) -> None:
    range_ = choose_range(_histogram(np.zeros(100)), method)
    assert range_.low == 0.0
    assert 0.0 < range_.high < 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.7, -2.5, 1e-30, 1e30])
def test_a_constant_is_covered(method: str, value: float) -> None:
    range_ = choose_range(_histogram(np.full(1000, value)), method)
    assert range_.low <= 0.0 <= range_.high
    if abs(value) > 1e-20:
        assert max(-range_.low, range_.high) == pytest.approx(abs(value), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_seen_is_an_error_that_names_the_tensor(method: str) -> None:
    with pytest.raises(DataError, match="no value of tensor 'relu_3'"):
        choose_range(Histogram("relu_3"), method)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="fix: choose one of minmax, percentile, entropy, mse"):
        choose_range(_histogram(np.ones(3)), "entropie")
