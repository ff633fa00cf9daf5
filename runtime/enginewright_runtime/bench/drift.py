"""Whether a figure drifts over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from enginewright_runtime.errors import NotEnoughSamples

_STRETCHES = 12  # Kendall's statistic is close to normal from ten points on
LEAST_POINTS = 5 * _STRETCHES


@dataclass(frozen=True)
class Drift:
    """How a figure changes in a unit of time, with its interval."""

    low: float
    slope: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def drift(times: Sequence[float], values: Sequence[float], *, confidence: float = 0.95) -> Drift:
    """The median of the slopes between all pairs of stretches (Theil 1950), with its interval (Sen 1968).

    The points, in the order of their times, are cut into twelve stretches of equal number, and each stretch counts as
    one point, its median: neighbouring points resemble each other where a machine has moods that last, and the interval
    takes what it is computed from as independent. Where each point keeps 70 % of the one before, 4 to 7 % of the
    series without a drift are called one, and 35 % would be without the stretches. What is left over is at the
    beginning, and left out. Raises NotEnoughSamples below LEAST_POINTS points.

    >>> drift(range(60), [5 + 2 * time for time in range(60)])
    Drift(low=2.0, slope=2.0, high=2.0)
    """
    count = len(times)
    if count != len(values):
        raise ValueError(f"{count} times and {len(values)} values")
    if count < LEAST_POINTS:
        raise NotEnoughSamples(f"a drift needs {LEAST_POINTS} points or more, and there are {count}")
    each = count // _STRETCHES
    x, y = (
        np.median(np.asarray(series, dtype=np.float64)[-each * _STRETCHES :].reshape(_STRETCHES, each), axis=1)
        for series in (times, values)
    )
    first, second = np.triu_indices(_STRETCHES, k=1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = z * math.sqrt(_STRETCHES * (_STRETCHES - 1) * (2 * _STRETCHES + 5) / 18)
    low = max(math.floor((len(slopes) - spread) / 2), 0)
    high = min(math.ceil((len(slopes) + spread) / 2), len(slopes) - 1)
    return Drift(float(slopes[low]), float(np.median(slopes)), float(slopes[high]))
