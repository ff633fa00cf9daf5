"""The statistics of latencies and shares: percentiles, and bounds that hold on correlated samples.

Pure functions of their arguments. The beta and t distributions are computed here, because the runtime depends on
numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from enginewright_runtime.errors import NotEnoughSamples

_CARRIED = 0.95
_SPREAD_RISK = 0.1  # that the sessions' true spread is above the bound that is taken for it
_TINY = 1e-300


def samples_for_percentile(percent: float) -> int:
    """The fewest samples that carry a percentile.

    The rule: with 95 % probability the most extreme of n independent samples lies beyond the percentile, so that the
    percentile is seen and not guessed: 1 - p^n >= 0.95, hence n = ceil(ln 0.05 / ln p), and for a percentile below
    the middle the same from the other side.

    >>> samples_for_percentile(50), samples_for_percentile(90), samples_for_percentile(99), samples_for_percentile(99.9)
    (5, 29, 299, 2995)
    """
    share = _share(percent)
    return math.ceil(math.log(1 - _CARRIED) / math.log(max(share, 1 - share)))


def percentile(samples: Sequence[int] | Sequence[float] | npt.NDArray[np.int64], percent: float) -> float:
    """The nearest-rank percentile: the smallest sample that at least `percent` % of the samples do not exceed.

    It is a sample and nothing interpolated. Raises NotEnoughSamples where there are fewer than
    `samples_for_percentile(percent)`.

    >>> percentile(range(1, 301), 99)
    297.0
    """
    needed = samples_for_percentile(percent)
    count = len(samples)
    if count < needed:
        raise NotEnoughSamples(f"p{percent:g} needs {needed} samples or more, and there are {count}")
    rank = math.ceil(Fraction(str(percent)) * count / 100)
    return float(np.partition(np.asarray(samples), rank - 1)[rank - 1])


def ratios_of_medians(slow_ns: Iterable[Sequence[int]], fast_ns: Iterable[Sequence[int]]) -> tuple[float, ...]:
    """How many times as fast the second engine is, session by session; what both saw of the machine cancels out in each.

    Sessions that have too few samples of either, or were too fast for the clock, are left out.

    >>> ratios_of_medians([[4, 4, 5, 9, 9], [6, 6, 6, 7, 7]], [[2, 1, 2, 1, 2], [3, 4, 3, 4, 3]])
    (2.5, 2.0)
    """
    carried = samples_for_percentile(50)
    pairs = [pair for pair in zip(slow_ns, fast_ns, strict=True) if min(map(len, pair)) >= carried]
    medians = [(percentile(slow, 50), percentile(fast, 50)) for slow, fast in pairs]
    return tuple(slow / fast for slow, fast in medians if slow and fast)


def median_interval(
    samples: Sequence[int] | Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The median with a two-sided interval at `confidence` that holds for any distribution: (low, median, high).

    Both ends are order statistics (David and Nagaraja, "Order statistics", 7.1). Raises NotEnoughSamples where even the
    extremes are not far enough apart.

    >>> median_interval(range(1, 31), confidence=0.95)
    (10.0, 15.5, 21.0)
    """
    count = len(samples)
    rank, beyond = 0, 0.5**count  # the chance that the median lies below the lowest sample
    while 2 * beyond <= 1 - confidence:
        rank += 1
        beyond += math.comb(count, rank) * 0.5**count
    if rank == 0:
        raise NotEnoughSamples(f"an interval for the median at {confidence:.0%} needs more than {count} samples")
    ordered = sorted(samples)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return float(ordered[rank - 1]), float(middle), float(ordered[count - rank])


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided score interval for a share (Wilson 1927).

    >>> [round(bound, 4) for bound in wilson_interval(95, 100)]
    [0.8882, 0.9785]
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        raise NotEnoughSamples("an interval for a share needs one trial or more, and there is none")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    spread = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    centre, scale = share + z * z / (2 * trials), 1 + z * z / trials
    # At the ends the exact bound is the end itself, which rounding misses.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def paired_difference_interval(
    broken: int, fixed: int, trials: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """The interval for how much of a share was lost, from trials judged before and after (Agresti and Min 2005).

    `broken` trials succeeded before and fail now, `fixed` the reverse; half a trial is added to each of the four
    outcomes, which keeps the interval honest where both are few.

    >>> [round(bound, 4) for bound in paired_difference_interval(30, 10, 1000)]
    [0.0075, 0.0324]
    """
    if broken < 0 or fixed < 0 or broken + fixed > trials:
        raise ValueError(f"{broken} broken and {fixed} fixed in {trials} trials")
    if trials == 0:
        raise NotEnoughSamples("an interval for a difference needs one trial or more, and there is none")
    total, lost, gained = trials + 2, broken + 0.5, fixed + 0.5
    drop = (lost - gained) / total
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = z * math.sqrt(max(lost + gained - (lost - gained) ** 2 / total, 0.0)) / total
    return drop - spread, drop + spread


def korn_graubard(counts_beyond: Sequence[int], samples_per_session: int, alpha: float) -> tuple[float, float]:
    """One-sided bounds, each at level `alpha`, for the share of inferences beyond a limit (Korn and Graubard 1998).

    `counts_beyond` has a count for each session of `samples_per_session` inferences. Samples of one process are
    correlated, so the sessions' own spread decides how many independent samples they are worth, with a penalty for
    how few sessions that spread is known from; then the exact binomial bounds (Clopper and Pearson 1934) are taken at
    that number. Raises NotEnoughSamples below two sessions.

    The penalty is harder than theirs, a ratio of t quantiles: a limit at the p99 is crossed in few sessions, and where
    sessions differ, most sets of few sessions miss the bad ones and see too little spread. So the spread is taken at
    its upper 90 % bound. benchmarks/gate_power.py prints how often the level is kept then, and where it is not: where
    the sessions' centres differ by half of the samples' own spread or more.

    >>> low, high = korn_graubard([0, 1, 0, 0, 0, 1, 0, 0], 200, 0.05)
    >>> f"{low:.4f} {high:.4f}"
    '0.0001 0.0061'
    """
    sessions, each = len(counts_beyond), samples_per_session
    if sessions < 2:
        raise NotEnoughSamples(f"a bound for a share needs two sessions or more, and there are {sessions}")
    if each < 1 or not all(0 <= count <= each for count in counts_beyond):
        raise ValueError(f"counts of 0 to {each} were expected, got {list(counts_beyond)}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must be between 0 and 0.5, got {alpha}")
    total = sessions * each
    share = sum(counts_beyond) / total
    effective = _effective_samples(counts_beyond, each)
    beyond, within = share * effective, (1 - share) * effective
    low = 0.0 if beyond == 0 else beta_quantile(alpha, beyond, within + 1)
    high = 1.0 if within == 0 else beta_quantile(1 - alpha, beyond + 1, within)
    return low, high


def _effective_samples(counts: Sequence[int], each: int) -> float:
    """How many independent samples the sessions are worth for a bound."""
    sessions = len(counts)
    total = sessions * each
    share = sum(counts) / total
    variance = float(np.var(np.asarray(counts, dtype=np.float64), ddof=1)) / (each * each * sessions)
    if variance == 0:
        return float(total)
    penalty = _chi_square_over_degrees(_SPREAD_RISK, sessions - 1)
    return min(float(total), share * (1 - share) / variance * penalty)


def _chi_square_over_degrees(probability: float, degrees: int) -> float:
    """A quantile of the chi-square distribution over its degrees of freedom (Wilson and Hilferty 1931).

    >>> round(_chi_square_over_degrees(0.1, 7), 3)
    0.405
    """
    spread = 2 / (9 * degrees)
    return max(1 - spread + NormalDist().inv_cdf(probability) * math.sqrt(spread), 0.0) ** 3


def student_t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t distribution with `degrees` degrees of freedom.

    >>> round(student_t_quantile(0.975, 9), 6)
    2.262157
    """
    if not 0 < probability < 1 or degrees <= 0:
        raise ValueError(f"no t quantile for the probability {probability} and {degrees} degrees of freedom")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, degrees)
    # t^2 / (degrees + t^2) follows the beta distribution (1/2, degrees/2). Whichever of it and its complement is the
    # smaller is solved for, so that no digits cancel.
    inside = 2 * probability - 1
    ratio = beta_quantile(inside, 0.5, degrees / 2)
    if ratio < 0.5:
        return math.sqrt(degrees * ratio / (1 - ratio))
    rest = beta_quantile(2 * (1 - probability), degrees / 2, 0.5)
    return math.sqrt(degrees * (1 - rest) / rest)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which the regularized incomplete beta function I_x(a, b) is `probability`; found by bisection.

    >>> round(beta_quantile(0.95, 1, 299), 6)
    0.009969
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability is between 0 and 1, got {probability}")
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if not low < middle < high or high < _TINY:
            return middle
        if incomplete_beta(middle, a, b) < probability:
            low = middle
        else:
            high = middle


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22).

    >>> round(incomplete_beta(0.5, 2, 3), 6)
    0.6875
    """
    if a <= 0 or b <= 0 or not 0 <= x <= 1:
        raise ValueError(f"I_x(a, b) is not defined at x={x}, a={a}, b={b}")
    if x in (0.0, 1.0):
        return x
    # The fraction converges quickly on this side of the distribution's bulk; beyond it the symmetry I_x(a, b) = 1 -
    # I_{1-x}(b, a) helps.
    if x > (a + 1) / (a + b + 2):
        return 1 - _lower_tail(1 - x, b, a)
    return _lower_tail(x, a, b)


def _lower_tail(x: float, a: float, b: float) -> float:
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) / a / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)), by the modified method of Lentz (1976)."""
    value = c = 1.0
    d = 0.0
    step = 0
    while True:
        step += 1
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value


def _share(percent: float) -> float:
    if not 0 < percent < 100:
        raise ValueError(f"a percentile is between 0 and 100, got {percent}")
    return float(Fraction(str(percent)) / 100)
