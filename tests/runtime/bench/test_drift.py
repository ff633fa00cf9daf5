"""A drift is found where there is one, is not where there is none, and a few wild points do not make one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import theilslopes

from enginewright_runtime.bench.drift import drift
from enginewright_runtime.errors import NotEnoughSamples


def noise(count: int, seed: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(0, 1, count)]


def test_it_agrees_with_scipy_on_the_stretches() -> None:
    times = [float(time) for time in range(120)]
    values = [0.05 * time + value for time, value in zip(times, noise(120, 1), strict=True)]
    stretches = [
        [float(np.median(series[start : start + 10])) for start in range(0, 120, 10)] for series in (times, values)
    ]
    theirs = theilslopes(stretches[1], stretches[0], alpha=0.95)
    ours = drift(times, values)
    assert ours.slope == pytest.approx(theirs.slope)
    assert ours.low == pytest.approx(theirs.low_slope, rel=0.05)
    assert ours.high == pytest.approx(theirs.high_slope, rel=0.05)


def test_noise_is_called_a_drift_as_seldom_as_the_confidence_says() -> None:
    certain = sum(drift(range(60), noise(60, seed)).certain for seed in range(300))
    assert 3 <= certain <= 30  # 15 are expected


def moods(count: int, seed: int) -> list[float]:
    """Noise of which each value keeps 70 % of the one before."""
    values = [0.0]
    for step in noise(count + 20, seed):
        values.append(0.7 * values[-1] + step)
    return values[-count:]


def test_a_machine_with_lasting_moods_is_seldom_called_drifting() -> None:
    certain = sum(drift(range(100), moods(100, seed)).certain for seed in range(300))
    assert certain <= 36  # 100 and more without the stretches


def test_a_drift_that_stands_out_is_certain_and_wild_points_do_not_hide_it() -> None:
    values = [0.3 * time + value for time, value in zip(range(60), noise(60, 3), strict=True)]
    values[7], values[20] = 500.0, -400.0
    found = drift(range(60), values)
    assert found.certain
    assert found.slope == pytest.approx(0.3, abs=0.03)


def test_a_figure_that_never_changes_does_not_drift() -> None:
    found = drift(range(70), [7.0] * 70)
    assert (found.low, found.slope, found.high, found.certain) == (0.0, 0.0, 0.0, False)


def test_59_points_are_too_few() -> None:
    with pytest.raises(NotEnoughSamples, match="a drift needs 60 points or more, and there are 59"):
        drift(range(59), range(59))
