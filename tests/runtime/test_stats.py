"""The statistics, against scipy and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.stats import (
    beta_quantile,
    incomplete_beta,
    korn_graubard,
    paired_difference_interval,
    percentile,
    samples_for_percentile,
    student_t_quantile,
    wilson_interval,
)


def test_the_incomplete_beta_function_is_scipy_s() -> None:
    generator = np.random.default_rng(1)
    for a, b in 10 ** generator.uniform(-1, 5, (300, 2)):
        for x in (generator.beta(a, b), generator.uniform()):
            assert incomplete_beta(float(x), a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-12)


def test_the_beta_quantile_is_scipy_s() -> None:
    generator = np.random.default_rng(2)
    for a, b in 10 ** generator.uniform(-0.3, 5, (100, 2)):
        for probability in (0.001, 0.05, 0.5, 0.95, 0.999):
            assert beta_quantile(probability, a, b) == pytest.approx(special.betaincinv(a, b, probability), rel=1e-8)


def test_the_t_quantile_is_scipy_s() -> None:
    for probability in (0.0001, 0.05, 0.4999, 0.5, 0.5001, 0.9, 0.95, 0.975, 0.999, 0.9999):
        for degrees in (1, 2, 4.5, 7, 39, 1599, 1e5):
            expected = stats.t.ppf(probability, degrees)
            assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (incomplete_beta, (0.5, 0, 1)),
        (incomplete_beta, (1.5, 1, 1)),
        (beta_quantile, (1.1, 1, 1)),
        (student_t_quantile, (1.0, 5)),
        (student_t_quantile, (0.5, 0)),
        (samples_for_percentile, (100,)),
        (wilson_interval, (3, 2)),
        (paired_difference_interval, (3, 0, 2)),
        (korn_graubard, ([1, 9], 8, 0.05)),
        (korn_graubard, ([1, 1], 8, 0.5)),
    ],
)
def test_arguments_without_a_meaning_are_refused(function: object, arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        function(*arguments)  # type: ignore[operator] # any of several functions


@pytest.mark.parametrize(("percent", "needed"), [(50, 5), (90, 29), (99, 299), (99.9, 2995), (1, 299)])
def test_a_percentile_needs_as_many_samples_as_show_it(percent: float, needed: int) -> None:
    assert samples_for_percentile(percent) == needed
    assert percentile(range(needed), percent) >= 0
    with pytest.raises(
        NotEnoughSamples, match=f"p{percent:g} needs {needed} samples or more, and there are {needed - 1}"
    ):
        percentile(range(needed - 1), percent)


@pytest.mark.parametrize("count", [299, 300, 301, 1000, 2995])
@pytest.mark.parametrize("percent", [1, 50, 90, 99])
def test_the_percentile_is_the_nearest_rank(count: int, percent: float) -> None:
    samples = np.random.default_rng(count).permutation(count) + 1
    value = percentile(samples, percent)
    assert value == np.percentile(samples, percent, method="inverted_cdf")
    assert np.mean(samples <= value) >= percent / 100
    assert np.mean(samples < value) < percent / 100


def test_the_wilson_interval_is_scipy_s() -> None:
    for successes, trials in ((0, 10), (10, 10), (1, 3), (95, 100), (1412, 1484)):
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(NotEnoughSamples):
        wilson_interval(0, 0)


def test_the_paired_interval_covers_a_known_drop() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for broken, fixed, _ in generator.multinomial(1000, [0.02, 0.012, 0.968], 500):
        low, high = paired_difference_interval(int(broken), int(fixed), 1000)
        covered += low <= 0.008 <= high
    assert 0.93 <= covered / 500 <= 0.97
    with pytest.raises(NotEnoughSamples):
        paired_difference_interval(0, 0, 0)


def test_without_correlation_the_bounds_are_clopper_and_pearson_s_at_most() -> None:
    counts = [3, 3, 3, 3, 3, 3, 3, 3]
    low, high = korn_graubard(counts, 200, 0.05)
    assert low == pytest.approx(special.betaincinv(24, 1600 - 24 + 1, 0.05), rel=1e-8)
    assert high == pytest.approx(special.betaincinv(24 + 1, 1600 - 24, 0.95), rel=1e-8)


def test_sessions_that_differ_widen_the_bounds() -> None:
    alike, apart = korn_graubard([3] * 8, 200, 0.05), korn_graubard([0, 0, 0, 0, 0, 0, 4, 20], 200, 0.05)
    assert apart[0] < alike[0] < alike[1] < apart[1]


def test_the_bounds_reach_the_ends_where_nothing_or_all_is_beyond() -> None:
    assert korn_graubard([0, 0], 299, 0.05)[0] == 0.0
    assert korn_graubard([299, 299], 299, 0.05)[1] == 1.0
    assert korn_graubard([0, 0], 150, 0.05)[1] == pytest.approx(1 - 0.05 ** (1 / 300))


def test_one_session_cannot_tell_how_sessions_differ() -> None:
    with pytest.raises(NotEnoughSamples, match="two sessions or more, and there are 1"):
        korn_graubard([0], 1000, 0.05)


def passes_at_the_limit(sessions: int, spread: float, *, runs: int = 400) -> tuple[float, float]:
    """How often a system whose p99 is exactly the limit passes: by our bound, and by the bound for independent samples.

    Latencies are log-normal (sd 10 %), and each session's centre is off by its own draw with sd `spread`: 1.5 % is what
    interleaved chunks give on a loaded machine, 5 % what long runs give.
    """
    generator = np.random.default_rng(4)
    limit = stats.norm.ppf(0.99) * np.hypot(0.1, spread)
    ours = independent = 0
    for _ in range(runs):
        beyond = stats.norm.sf(limit, generator.normal(0, 1, sessions) * spread, 0.1)
        counts = [int(count) for count in generator.binomial(200, beyond)]
        ours += korn_graubard(counts, 200, 0.05)[1] <= 0.01
        independent += special.betaincinv(sum(counts) + 1, 200 * sessions - sum(counts), 0.95) <= 0.01
    return ours / runs, independent / runs


@pytest.mark.parametrize(("sessions", "spread"), [(8, 0.0), (8, 0.015), (16, 0.015)])
def test_a_system_at_the_exact_limit_passes_5_percent_of_the_time_at_most(sessions: int, spread: float) -> None:
    ours, _ = passes_at_the_limit(sessions, spread)
    assert ours <= 0.05


def test_where_sessions_differ_much_a_system_at_the_limit_passes_little_more_often() -> None:
    """Korn and Graubard's own penalty lets 7.7 % pass here, and the bound for independent samples 25 % or more."""
    ours, independent = passes_at_the_limit(40, 0.05, runs=800)
    assert ours <= 0.07
    assert independent >= 0.2


def test_few_sessions_whose_slow_inferences_come_together_pass_little_more_often() -> None:
    """An intraclass correlation of 0.02; their own penalty lets 10 % pass."""
    generator = np.random.default_rng(5)
    size, passed = 0.98 / 0.02, 0
    for _ in range(800):
        counts = generator.binomial(200, generator.beta(0.01 * size, 0.99 * size, 8))
        passed += korn_graubard([int(count) for count in counts], 200, 0.05)[1] <= 0.01
    assert passed / 800 <= 0.065


def test_a_system_well_within_the_limit_still_passes() -> None:
    """One that is beyond it 0.2 % of the time, where 1 % may be."""
    generator = np.random.default_rng(6)
    counts = generator.binomial(200, 0.002, (200, 18))
    assert sum(korn_graubard([int(one) for one in row], 200, 0.025)[1] <= 0.01 for row in counts) >= 195
