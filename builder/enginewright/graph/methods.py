"""From a histogram to the range that int8 should cover: four methods, as one table.

Each chooses a threshold on |x| and cuts the exact extremes there, so that one range serves backends with symmetric
integers and those with a zero point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginewright.errors import DataError
from enginewright.graph.histogram import Histogram

__all__ = ["METHODS", "Range", "choose_range"]

FloatArray = npt.NDArray[np.float64]

_LEVELS = 128  # magnitudes of a signed 8-bit integer, zero included
_KEPT_SHARE = 0.9999  # the percentile: one value in ten thousand is cut
_VALUES_PER_BIN = 16
_MSE_CANDIDATES = 256
_DEAD_RANGE = 2.0**-16


@dataclass(frozen=True)
class Range:
    """The real numbers that a tensor's integers cover. `low` <= `high`, both finite."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise DataError(f"a range must run from a finite number up to another, got {self.low} to {self.high}")

    def union(self, other: Range) -> Range:
        """The smallest range that covers both.

        >>> Range(0.0, 2.0).union(Range(-1.0, 1.0))
        Range(low=-1.0, high=2.0)
        """
        return Range(min(self.low, other.low), max(self.high, other.high))


def choose_range(histogram: Histogram, method: str) -> Range:
    """The range of a tensor by a method of METHODS; zero always lies in it.

    Raises DataError for an empty histogram or an unknown method.
    A tensor that is always zero (a channel that pruning left behind, a dead branch) gets the range 0 to 2**-16: every
    scale represents zero exactly, and this one is small beside any signal, yet far from where products of scales lose
    precision.
    """
    if method not in METHODS:
        raise DataError(f"unknown calibration method '{method}'", hint=f"choose one of {', '.join(METHODS)}")
    if not histogram.count:
        raise DataError(
            f"calibration: no value of tensor '{histogram.tensor}' was seen",
            hint="give at least one calibration sample",
        )
    if histogram.largest == 0.0 or not histogram.magnitudes().any():
        return Range(0.0, _DEAD_RANGE)
    threshold = METHODS[method](histogram)
    return Range(max(min(histogram.low, 0.0), -threshold), min(max(histogram.high, 0.0), threshold))


def _minmax(histogram: Histogram) -> float:
    """Everything that was seen."""
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    """The magnitude that 99.99 % of all values, exact zeros included, do not exceed; to within a bin."""
    running = histogram.zeros + np.cumsum(histogram.magnitudes())
    wanted = math.ceil(_KEPT_SHARE * histogram.count)
    if wanted <= histogram.zeros:
        return histogram.largest  # nearly all is zero: what is left is the signal
    return min((int(np.searchsorted(running, wanted)) + 1) * histogram.bin_width, histogram.largest)


def _entropy(histogram: Histogram) -> float:
    """The threshold whose 128 levels lose the least information: Migacz, "8-bit inference with TensorRT", GTC 2017,
    the slides on KL divergence.

    For each number i of bins kept, from 128 on: P is the histogram of the first i bins with all outliers added to the
    last that is not empty (to an empty one Q would give no mass, and KL would be infinite); Q is the same bins without
    the outliers, joined into 128 levels and spread again evenly over those bins of a level that are not empty; the i
    with the smallest KL(P, Q) wins. Exact zeros are left out, since every scale represents them exactly and ReLU would
    drown the rest in them.

    Where values are few, bins are joined until they hold 16 each on average: below that, chance makes the histogram so
    rough that far too much is cut. With fewer than 128 bins left, nothing is cut.
    All candidates are evaluated at once from running sums, since P and Q enter KL only through sums over levels.
    """
    counts, width = _with_enough_in_each_bin(histogram)
    used = len(counts)
    if used <= _LEVELS:
        return histogram.largest
    kept = np.arange(_LEVELS, used + 1)
    mass = np.concatenate(([0.0], np.cumsum(counts)))
    filled = np.concatenate(([0.0], np.cumsum(counts > 0)))
    own = np.concatenate(([0.0], np.cumsum(_x_log_x(counts))))
    edges = kept[:, None] * np.arange(_LEVELS + 1)[None, :] // _LEVELS
    level_mass, level_filled = np.diff(mass[edges], axis=1), np.diff(filled[edges], axis=1)
    level_log = _log(level_mass) - _log(level_filled)  # log of what Q holds in each bin of the level that is not empty
    outliers = mass[-1] - mass[kept]
    last = np.maximum.accumulate(np.where(counts > 0, np.arange(used), 0))[kept - 1]
    last_level = (_LEVELS * (last + 1) - 1) // kept  # the level whose edges enclose that bin
    p_log_p = own[kept] - _x_log_x(counts[last]) + _x_log_x(counts[last] + outliers)
    p_log_q = (level_mass * level_log).sum(axis=1) + outliers * level_log[np.arange(len(kept)), last_level]
    # Divide by the sums of P and Q: the first holds the outliers, the second does not.
    divergence = (p_log_p - p_log_q) / mass[-1] - math.log(mass[-1]) + _log(mass[kept])
    divergence[mass[kept] == 0] = math.inf  # all is outlier
    return min(float(kept[int(np.argmin(divergence))]) * width, histogram.largest)


def _with_enough_in_each_bin(histogram: Histogram) -> tuple[FloatArray, float]:
    """The counts of |x| up to the last bin that is not empty, and the width of a bin, after joining bins in pairs."""
    counts, width = histogram.magnitudes().astype(np.float64), histogram.bin_width
    used = int(np.flatnonzero(counts)[-1]) + 1
    while used > _LEVELS and counts.sum() < _VALUES_PER_BIN * used:
        counts, width, used = counts.reshape(-1, 2).sum(axis=1), 2.0 * width, (used + 1) // 2
    return counts[:used], width


def _mse(histogram: Histogram) -> float:
    """The threshold with the smallest expected squared error of rounding and cutting, values spread evenly within
    each bin.

    A tensor without negative values meets two grids, of 127 steps where integers are symmetric and of 255 where they
    are not: the product of both errors decides, which is the mean of both in decibels.
    """
    counts = histogram.magnitudes().astype(np.float64)
    used = int(np.flatnonzero(counts)[-1]) + 1
    edges = np.arange(used + 1, dtype=np.float64) * histogram.bin_width
    grids = (_LEVELS - 1,) if histogram.low < 0.0 else (_LEVELS - 1, 2 * _LEVELS - 1)

    def error(top: float, steps: int) -> float:
        return float(np.dot(counts[:used], np.diff(_error_integral(edges, top, top / steps))))

    candidates = [histogram.largest * (number + 1) / _MSE_CANDIDATES for number in range(_MSE_CANDIDATES)]
    return min(candidates, key=lambda top: math.prod([error(top, steps) for steps in grids]))


def _error_integral(edges: FloatArray, threshold: float, step: float) -> FloatArray:
    """The integral from 0 to x of the squared error of rounding to multiples of `step` and cutting at `threshold`."""
    inside = np.minimum(edges, threshold)
    level = np.rint(inside / step)
    rest = inside - level * step
    # A level's own cell contributes step**3 / 12; the rest of the way into the next one, a cube.
    cut = np.maximum(edges - threshold, 0.0)
    # A power would take ten times as long as the products.
    integral: FloatArray = level * (step**3 / 12.0) + (rest * rest * rest + cut * cut * cut) / 3.0
    return integral


def _log(counts: FloatArray) -> FloatArray:
    """The logarithm of whole numbers; 0 for 0, which always stands beside a factor of 0."""
    logarithms: FloatArray = np.log(np.maximum(counts, 1.0))
    return logarithms


def _x_log_x(values: FloatArray) -> FloatArray:
    return values * _log(values)


METHODS: Mapping[str, Callable[[Histogram], float]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
