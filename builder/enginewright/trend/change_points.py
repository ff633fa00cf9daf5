"""Where a series of figures changed: E-Divisive, which assumes nothing about their distribution.

Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate data", Journal of the
American Statistical Association 109 (2014). Daly et al. (ICPE 2020) report on years of it over the performance tests of
a database. Pure: the same series always gives the same change points, for the permutations come from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

LEAST_POINTS = 3  # on each side of a change
_PERMUTATIONS = 399
_RISK = 0.01  # that a series without a change gets its first mark

_Series = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChangePoint:
    """A change between `index` - 1 and `index`. `p_value`: how often a shuffled series looks as changed as this one."""

    index: int
    p_value: float


def change_points(values: Sequence[float], *, seed: int = 0) -> tuple[ChangePoint, ...]:
    """The changes of a series, in its order.

    The strongest change is looked for in all stretches between those that were found before, and kept where fewer than
    1 % of the shuffled series have one as strong; the first that is not kept ends the search. A series of fewer than
    2 * LEAST_POINTS values has none.

    >>> [change.index for change in change_points([1.0, 1.1, 0.9, 1.0, 1.1, 2.0, 2.1, 1.9, 2.0, 2.1])]
    [5]
    """
    series = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(series)):
        raise ValueError("a series of finite numbers was expected")
    generator = np.random.default_rng(seed)
    bounds = [0, len(series)]
    found: list[ChangePoint] = []
    while True:
        strength, index = _strongest(series, bounds)
        if index is None:
            break
        p_value = _p_value(series, bounds, strength, generator)
        if p_value > _RISK:
            break
        found.append(ChangePoint(index, p_value))
        bounds = sorted([*bounds, index])
    return tuple(sorted(found, key=lambda change: change.index))


def _p_value(series: _Series, bounds: Sequence[int], strength: float, generator: np.random.Generator) -> float:
    """How often the shuffled series has a change as strong. Shuffling ends as soon as that is more often than the risk."""
    stronger = shuffles = 0
    while shuffles < _PERMUTATIONS and stronger <= _RISK * (_PERMUTATIONS + 1):
        shuffles += 1
        stronger += _strongest(_shuffled(series, bounds, generator), bounds)[0] >= strength
    return (stronger + 1) / (shuffles + 1)


def _strongest(series: _Series, bounds: Sequence[int]) -> tuple[float, int | None]:
    """The strength and the place of the strongest change within the stretches; no place where all are too short."""
    best: tuple[float, int | None] = (-np.inf, None)
    for start, end in pairwise(bounds):
        if end - start >= 2 * LEAST_POINTS:
            strength, index = _best_split(series[start:end])
            if strength > best[0]:
                best = strength, start + index
    return best


def _best_split(values: _Series) -> tuple[float, int]:
    """The split of a stretch with the largest energy distance between what is before it and what follows it.

    What follows ends anywhere up to the stretch's end, so that a second change further on does not hide the first.
    """
    count = len(values)
    sums = np.zeros((count + 1, count + 1))
    sums[1:, 1:] = np.cumsum(np.cumsum(np.abs(values[:, None] - values[None, :]), axis=0), axis=1)
    splits = np.arange(LEAST_POINTS, count - LEAST_POINTS + 1)[:, None]
    ends = np.arange(2 * LEAST_POINTS, count + 1)[None, :]
    before, after = splits, ends - splits
    fits = after >= LEAST_POINTS
    after = np.where(fits, after, LEAST_POINTS)
    inside_before = sums[splits, splits] / 2
    inside_after = (sums[ends, ends] - 2 * sums[splits, ends] + sums[splits, splits]) / 2
    across = sums[splits, ends] - sums[splits, splits]
    energy = (
        2 * across / (before * after)
        - inside_before / (before * (before - 1) / 2)
        - inside_after / (after * (after - 1) / 2)
    )
    strengths = np.where(fits, before * after / (before + after) * energy, -np.inf)
    row = int(np.argmax(strengths.max(axis=1)))
    return float(strengths[row].max()), int(splits[row, 0])


def _shuffled(series: _Series, bounds: Sequence[int], generator: np.random.Generator) -> _Series:
    """The series, shuffled within each stretch: the changes between them are taken as given."""
    pieces = [generator.permutation(series[start:end]) for start, end in pairwise(bounds)]
    return np.concatenate(pieces)
