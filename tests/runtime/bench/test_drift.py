"""A drift is found where there is one, is not where there is none, and a few wild points do not make one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import theilslopes

from enginewright_runtime.bench.drift import drift
from enginewright_runtime.errors import NotEnoughSamples


def noise(count: int, seed: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(0, 1, count)]


def test_it_agrees_with_scipy() -> None:
    times = [float(time) for time in range(40)]
    values = [0.05 * time + value for time, value in zip(times, noise(40, 1), strict=True)]
    theirs = theilslopes(values, times, alpha=0.95)
    ours = drift(times, values)
    assert ours.slope == pytest.approx(theirs.slope)
    assert ours.low == pytest.approx(theirs.low_slope, rel=0.05)
    assert ours.high == pytest.approx(theirs.high_slope, rel=0.05)


def test_noise_is_called_a_drift_as_seldom_as_the_confidence_says() -> None:
    times = list(range(30))
    certain = sum(drift(times, noise(30, seed)).certain for seed in range(300))
    assert certain <= 30  # 15 are expected


def test_a_drift_that_stands_out_is_certain_and_wild_points_do_not_hide_it() -> None:
    values = [0.3 * time + value for time, value in zip(range(30), noise(30, 3), strict=True)]
    values[7], values[20] = 500.0, -400.0
    found = drift(range(30), values)
    assert found.certain
    assert found.slope == pytest.approx(0.3, abs=0.06)


def test_a_figure_that_never_changes_does_not_drift() -> None:
    found = drift(range(20), [7.0] * 20)
    assert (found.low, found.slope, found.high, found.certain) == (0.0, 0.0, 0.0, False)


def test_nine_points_are_too_few() -> None:
    with pytest.raises(NotEnoughSamples, match="a drift needs 10 points or more, and there are 9"):
        drift(range(9), range(9))
