"""Changes are found where they are, seldom where they are not, and by the definition of the method."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from enginewright.trend.change_points import _best_split, change_points


def noise(count: int, seed: int, *, spread: float = 1.0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(10, spread, count)]


def indices(values: list[float]) -> list[int]:
    return [change.index for change in change_points(values)]


def test_a_step_is_found_at_its_place() -> None:
    values = [*noise(20, 1), *(value + 6 for value in noise(15, 2))]
    assert indices(values) == [20]


def test_two_steps_are_found_though_the_second_takes_the_first_one_back() -> None:
    values = [*noise(15, 3), *(value + 8 for value in noise(15, 4)), *noise(15, 5)]
    assert indices(values) == [15, 30]


def test_noise_alone_has_marks_in_about_one_series_of_a_hundred() -> None:
    marked = sum(bool(change_points(noise(25, seed))) for seed in range(100))
    assert marked <= 5


def test_one_wild_commit_is_no_change() -> None:
    values = noise(30, 6)
    values[12] += 100
    assert indices(values) == []


def test_a_change_of_spread_alone_is_a_change_too() -> None:
    values = [*noise(40, 7, spread=0.05), *noise(40, 8, spread=4.0)]
    assert len(indices(values)) == 1
    assert abs(indices(values)[0] - 40) <= 4


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_short_history_has_no_changes(count: int) -> None:
    assert change_points([1.0, 1.0, 1.0, 9.0, 9.0][:count]) == ()


def test_a_constant_series_has_no_changes() -> None:
    assert change_points([3.0] * 20) == ()


def test_the_same_series_always_gives_the_same_changes() -> None:
    values = [*noise(20, 1), *(value + 2 for value in noise(15, 2))]
    assert change_points(values) == change_points(values)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        change_points([1.0, float("nan")] * 5)


def energy(before: list[float], after: list[float]) -> float:
    """The statistic as the paper defines it (its equations 5 and 7), with no prefix sums."""
    n, m = len(before), len(after)
    across = sum(abs(one - other) for one, other in product(before, after))
    within = [sum(abs(one - other) for one, other in combinations(part, 2)) for part in (before, after)]
    found = 2 * across / (n * m) - within[0] / (n * (n - 1) / 2) - within[1] / (m * (m - 1) / 2)
    return n * m / (n + m) * found


def test_the_best_split_is_that_of_the_definition() -> None:
    values = noise(14, 9)
    pairs = [(split, end) for split in range(3, 12) for end in range(split + 3, 15)]
    best = max(pairs, key=lambda pair: energy(values[: pair[0]], values[pair[0] : pair[1]]))
    strength, index = _best_split(np.asarray(values))
    assert index == best[0]
    assert strength == pytest.approx(energy(values[: best[0]], values[best[0] : best[1]]))
