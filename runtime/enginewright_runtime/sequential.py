"""Comparing two engines session by session, with looks at the data in between: the rule, and no measuring.

A group-sequential design (Lan and DeMets 1983): the risk of a wrong FAIL, and that of a wrong PASS, is spent over the
looks as alpha * t^1.5, where t is the share of the sessions that there may be at most. What is looked at is Student's
t over the sessions, whose values at successive looks are correlated; `thresholds` follows their joint distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from enginewright_runtime.budget import Verdict
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.stats import student_t_quantile

LOOKS = (8, 12, 16, 20, 24, 32, 40)
ALPHA_FAIL = 0.01  # an engine that is not slower is called FAIL with at most this probability, over all metrics
ALPHA_PASS = 0.05  # an engine that is slower by what is allowed is called PASS with at most this probability
_SPENDING_POWER = 1.5
_METRICS = 3
_LEAST_LOG_SPREAD = 5e-4  # sessions that agree better than this do so by chance
_LEAST_COUNT_SPREAD = 0.3
_LEAST_STEP = 4
_NODES = 64
_LARGEST_RATIO = 1_000.0

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """How much more than the baseline's a metric may be, as shares: FAIL beyond the first, PASS within the second."""

    fail_beyond: float
    pass_within: float


@dataclass(frozen=True)
class Profile:
    """The limits of a gate. `tail` is about the count of the slowest inferences, which is not known well."""

    name: str
    centre: Limits
    p90: Limits
    tail: Limits = Limits(0.5, 1.5)


PROFILES: dict[str, Profile] = {
    "strict": Profile("strict", centre=Limits(0.005, 0.03), p90=Limits(0.01, 0.05)),
    "standard": Profile("standard", centre=Limits(0.01, 0.05), p90=Limits(0.02, 0.07)),
}


@dataclass(frozen=True)
class PairedSession:
    """One session of a baseline and a candidate, as the rule sees it.

    `centre` and `p90` are logarithms of the candidate's latency over the baseline's. The counts are of the inferences
    of either that are slower than the p99 of both together.
    """

    centre: float
    p90: float
    slow_baseline: int
    slow_candidate: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is known of one metric: how much more the candidate takes, as a share of the baseline's, with its bounds,
    which end at 999.

    `low` is wrong with the risk of FAIL, `high` with that of PASS, over all looks. `verdict` is None as long as neither
    is decided. For the tail, the shares are of the counts of slow inferences.
    """

    metric: str
    value: float
    low: float
    high: float
    limits: Limits
    verdict: Verdict | None

    def to_json(self) -> dict[str, Json]:
        """The change as a JSON object."""
        decided = self.verdict.value if self.verdict else None
        return {**vars(self), "limits": dict(vars(self.limits)), "verdict": decided}


@dataclass(frozen=True)
class Decision:
    """What the sessions say. `verdict` is None where more of them are wanted."""

    verdict: Verdict | None
    sessions: int
    changes: tuple[Change, ...]


def decide(sessions: Sequence[PairedSession], profile: Profile, *, comparisons: int = 1) -> Decision:
    """Judge the sessions so far: FAIL if any metric is beyond its limit, PASS if all are within theirs.

    There is a verdict only where the number of sessions is one of LOOKS, and at the last of them there always is:
    INCONCLUSIVE where it is neither. `comparisons`: against how many baselines the candidate is judged at once; the
    risk of FAIL is split among them. Raises NotEnoughSamples below two sessions.

    >>> alike = [PairedSession(0.0002 * (-1) ** index, 0.0, 2, 2) for index in range(8)]
    >>> decide(alike, PROFILES["strict"]).verdict.value
    'PASS'
    """
    count = len(sessions)
    if count < 2:
        raise NotEnoughSamples(f"a change is known from two sessions or more, and there are {count}")
    if count > LOOKS[-1]:
        raise ValueError(f"{count} sessions, and the rule is made for {LOOKS[-1]} at most")
    look = next(index for index, planned in enumerate(LOOKS) if planned >= count)
    t_fail = thresholds(ALPHA_FAIL / (_METRICS * comparisons))[look]
    t_pass = thresholds(ALPHA_PASS)[look]
    at_look = count == LOOKS[look]
    changes = (
        _log_change("centre", [one.centre for one in sessions], profile.centre, t_fail, t_pass),
        _log_change("p90", [one.p90 for one in sessions], profile.p90, t_fail, t_pass),
        _tail_change(sessions, profile.tail, t_fail, t_pass),
    )
    verdicts = {change.verdict for change in changes}
    if at_look and Verdict.FAIL in verdicts:
        return Decision(Verdict.FAIL, count, changes)
    if at_look and verdicts == {Verdict.PASS}:
        return Decision(Verdict.PASS, count, changes)
    return Decision(Verdict.INCONCLUSIVE if count == LOOKS[-1] else None, count, changes)


def _log_change(name: str, logs: Sequence[float], limits: Limits, t_fail: float, t_pass: float) -> Change:
    mean, error = _mean_and_error(np.asarray(logs), _LEAST_LOG_SPREAD)
    low, high = math.expm1(mean - t_fail * error), math.expm1(mean + t_pass * error)
    return _judged(name, math.expm1(mean), (low, high), limits)


def _tail_change(sessions: Sequence[PairedSession], limits: Limits, t_fail: float, t_pass: float) -> Change:
    """A ratio of counts has no useful logarithm where counts are of 0 to 4. So the bound is the ratio r at which the
    mean of candidate - r * baseline is just told from 0 (Fieller 1954).
    """
    baseline = np.array([one.slow_baseline for one in sessions], dtype=np.float64)
    candidate = np.array([one.slow_candidate for one in sessions], dtype=np.float64)

    def surely_above(ratio: float) -> bool:
        mean, error = _mean_and_error(candidate - ratio * baseline, _LEAST_COUNT_SPREAD)
        return mean - t_fail * error > 0

    def surely_below(ratio: float) -> bool:
        mean, error = _mean_and_error(ratio * baseline - candidate, _LEAST_COUNT_SPREAD)
        return mean - t_pass * error > 0

    low = _last_true(surely_above)
    high = _first_true(surely_below)
    total = float(baseline.sum())
    value = float(candidate.sum()) / total if total else (_LARGEST_RATIO if candidate.any() else 1.0)
    return _judged("tail", value - 1, (low - 1, high - 1), limits)


def _judged(name: str, value: float, bounds: tuple[float, float], limits: Limits) -> Change:
    low, high = bounds
    beyond, within = low > limits.fail_beyond, high < limits.pass_within
    verdict = Verdict.FAIL if beyond else Verdict.PASS if within else None
    return Change(metric=name, value=value, low=low, high=high, limits=limits, verdict=verdict)


def _mean_and_error(values: _Floats, least_spread: float) -> tuple[float, float]:
    spread = max(float(np.std(values, ddof=1)), least_spread)
    return float(np.mean(values)), spread / math.sqrt(values.size)


def _last_true(holds: Callable[[float], bool]) -> float:
    """The ratio up to which a condition holds, 0 where it never does."""
    return _boundary(lambda ratio: not holds(ratio))


def _first_true(holds: Callable[[float], bool]) -> float:
    """The ratio from which on a condition holds, _LARGEST_RATIO where it never does."""
    return _boundary(holds)


def _boundary(holds: Callable[[float], bool]) -> float:
    low, high = 0.0, _LARGEST_RATIO
    if holds(low):
        return low
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@lru_cache(maxsize=32)
def thresholds(alpha: float, looks: tuple[int, ...] = LOOKS) -> tuple[float, ...]:
    """The values that Student's t over the sessions must exceed at each look, one-sided, for a risk of `alpha` in all.

    By integration and not by simulation. Let u be the sum of n independent normal values over the square root of n
    times the sum of their squares, so that t = u sqrt(n - 1) / sqrt(1 - u^2). Where their mean is 0, u is independent
    of that sum of squares (Basu 1955). So u is a Markov chain over the looks: after m more values it is
    u sqrt(n B / (n + m)) + v sqrt(m (1 - B) / (n + m)), where B has the beta distribution (n/2, m/2), and v is the u of
    the new values. The part of the distribution that has crossed no threshold is carried from look to look on Gauss
    nodes. Looks are four sessions apart at the least.

    >>> [round(one, 2) for one in thresholds(0.05, (8, 12, 16, 24, 32, 40))]
    [3.58, 3.1, 2.78, 2.32, 2.1, 1.93]
    """
    steps = [after - before for before, after in zip((0, *looks), looks, strict=False)]
    if min(steps) < _LEAST_STEP or not 0 < alpha < 0.5:
        raise ValueError(f"no thresholds for the risk {alpha} at the looks {looks}")
    spent = [alpha * (look / looks[-1]) ** _SPENDING_POWER for look in looks]
    found = [student_t_quantile(1 - spent[0], looks[0] - 1)]
    nodes, weights = _nodes_below(_cosine(found[0], looks[0]))
    masses = weights * _cosine_density(nodes, looks[0])
    for index in range(1, len(looks)):
        step = _Step(looks[index - 1], looks[index])
        found.append(_crossing(step, nodes, masses, spent[index] - spent[index - 1]))
        after, weights = _nodes_below(_cosine(found[-1], looks[index]))
        masses = weights * step.density(after, nodes, masses)
        nodes = after
    return tuple(found)


class _Step:
    """How u moves from one look to the next: see `thresholds`."""

    def __init__(self, before: int, after: int) -> None:
        self.after = after
        self._new = after - before
        positions, weights = np.polynomial.legendre.leggauss(_NODES)
        angles = (positions + 1) * math.pi / 4  # B is the square of their sine
        weights = weights * np.sin(angles) ** (before - 1) * np.cos(angles) ** (self._new - 1)
        self._weights = weights / weights.sum()
        self._kept = np.sin(angles) * math.sqrt(before / after)
        self._gained = np.cos(angles) * math.sqrt(self._new / after)
        grid = np.linspace(-math.pi / 2, math.pi / 2, 4_001)
        heights = np.cos(grid) ** (self._new - 2)
        below = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
        self._angles, self._below = grid, below / below[-1]

    def beyond(self, cosine: float, nodes: _Floats, masses: _Floats) -> float:
        """The probability that u is beyond `cosine` after this step."""
        v = (cosine - np.outer(nodes, self._kept)) / self._gained
        below = np.interp(np.arcsin(np.clip(v, -1, 1)), self._angles, self._below)
        return float(masses @ ((1 - below) @ self._weights))

    def density(self, after: _Floats, nodes: _Floats, masses: _Floats) -> _Floats:
        """The density of u at each of `after`."""
        v = (after[:, None, None] - np.outer(nodes, self._kept)) / self._gained
        each = _cosine_density(v, self._new) / self._gained
        density: _Floats = (each @ self._weights) @ masses
        return density


def _crossing(step: _Step, nodes: _Floats, masses: _Floats, risk: float) -> float:
    """The t beyond which the next look finds `risk` of what has crossed no threshold yet; by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if step.beyond(middle, nodes, masses) > risk else (low, middle)
    return high * math.sqrt(step.after - 1) / math.sqrt(1 - high * high)


def _nodes_below(cosine: float) -> tuple[_Floats, _Floats]:
    """Gauss nodes and weights for an integral over u from -1 to `cosine`; over its angle, which smooths the ends."""
    positions, weights = np.polynomial.legendre.leggauss(_NODES)
    half = (math.asin(cosine) + math.pi / 2) / 2
    angles = half * (positions + 1) - math.pi / 2
    return np.sin(angles), weights * half * np.cos(angles)


def _cosine_density(u: _Floats, count: int) -> _Floats:
    """The density of u of `count` normal values of mean 0: the cosine of a random direction to a fixed one."""
    scale = math.exp(math.lgamma(count / 2) - math.lgamma((count - 1) / 2)) / math.sqrt(math.pi)
    density: _Floats = scale * np.maximum(1 - u * u, 0.0) ** ((count - 3) / 2)
    return density


def _cosine(t: float, count: int) -> float:
    return t / math.sqrt(count - 1 + t * t)
