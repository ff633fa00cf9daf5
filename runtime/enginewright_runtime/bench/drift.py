"""Whether a figure drifts over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from enginewright_runtime.errors import NotEnoughSamples

LEAST_POINTS = 10  # the normal approximation of Kendall's statistic is good from there on
_MOST_POINTS = 1_000


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
    """The median of the slopes between all pairs of points (Theil 1950), with its interval (Sen 1968).

    A tenth of the points may be anything without moving it much. The interval takes the points' deviations from the
    line as independent of each other: where the machine has slow moods of its own, it is too short. Points at equal
    times are no pair. Raises NotEnoughSamples below LEAST_POINTS points.

    >>> drift(range(12), [5 + 2 * time for time in range(12)])
    Drift(low=2.0, slope=2.0, high=2.0)
    """
    count = len(times)
    if count != len(values):
        raise ValueError(f"{count} times and {len(values)} values")
    if count < LEAST_POINTS:
        raise NotEnoughSamples(f"a drift needs {LEAST_POINTS} points or more, and there are {count}")
    if count > _MOST_POINTS:
        raise ValueError(f"{count} points, and {_MOST_POINTS} are the most")
    first, second = np.triu_indices(count, k=1)
    x, y = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    apart = x[second] != x[first]
    slopes = np.sort((y[second] - y[first])[apart] / (x[second] - x[first])[apart])
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(math.floor((len(slopes) - spread) / 2), 0)
    high = min(math.ceil((len(slopes) + spread) / 2), len(slopes) - 1)
    return Drift(float(slopes[low]), float(np.median(slopes)), float(slopes[high]))
