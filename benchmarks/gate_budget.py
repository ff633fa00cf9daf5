"""The budget rule at the exact limit: how often a p99 that is what the budget allows, and no less, is called PASS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from enginewright_runtime.stats import beta_quantile, korn_graubard, student_t_quantile

__all__ = ["budget_table"]

_ALPHA, _EACH, _ALLOWED = 0.05, 200, 0.01
_Counts = npt.NDArray[np.int64]


def _alike(generator: np.random.Generator, sessions: int) -> _Counts:
    """Samples that are independent."""
    return generator.binomial(_EACH, _ALLOWED, sessions)


def _clustered(correlation: float) -> Callable[[np.random.Generator, int], _Counts]:
    """Sessions whose share beyond the limit has a beta distribution, with this intraclass correlation."""
    size = (1 - correlation) / correlation

    def counts(generator: np.random.Generator, sessions: int) -> _Counts:
        shares = generator.beta(_ALLOWED * size, (1 - _ALLOWED) * size, sessions)
        return generator.binomial(_EACH, shares)

    return counts


def _shifted(ratio: float) -> Callable[[np.random.Generator, int], _Counts]:
    """Sessions whose centres are normal, with `ratio` times the spread of the samples within one."""
    limit = 2.326347874 * (1 + ratio**2) ** 0.5

    def counts(generator: np.random.Generator, sessions: int) -> _Counts:
        samples = ratio * generator.standard_normal((sessions, 1)) + generator.standard_normal((sessions, _EACH))
        return (samples > limit).sum(axis=1)

    return counts


_WORLDS = {
    "independent samples": _alike,
    "intraclass correlation 0.005": _clustered(0.005),
    "intraclass correlation 0.02": _clustered(0.02),
    "sessions' centres 0.25 of the samples' spread": _shifted(0.25),
    "sessions' centres 0.5 of the samples' spread": _shifted(0.5),
}


def budget_table(gates: int) -> list[str]:
    """Lines: our bound, Korn and Graubard's own, the bound for independent samples, and the p99 against the limit."""
    lines = [
        "the budget rule where p99 is exactly the limit: share called PASS (goal: 5 % at most)",
        f"{'world':<46} {'sessions':>8} {'ours':>7} {'K.-G.':>7} {'independent':>12} {'p99 <= X':>9}",
    ]
    for name, world in _WORLDS.items():
        for sessions in (6, 8, 18, 40):
            generator = np.random.default_rng(3)
            shares = np.mean([_passes(world(generator, sessions)) for _ in range(gates)], axis=0)
            rules = f"{shares[0]:>7.1%} {shares[1]:>7.1%} {shares[2]:>12.1%} {shares[3]:>9.1%}"
            lines.append(f"{name:<46} {sessions:>8} {rules}")
    return lines


def _passes(counts: _Counts) -> tuple[bool, bool, bool, bool]:
    total = counts.size * _EACH
    beyond = int(counts.sum())
    ours = korn_graubard([int(count) for count in counts], _EACH, _ALPHA)[1]
    theirs, independent = (_upper(beyond / total, effective) for effective in (_effective_samples(counts), total))
    return ours <= _ALLOWED, theirs <= _ALLOWED, independent <= _ALLOWED, beyond <= _ALLOWED * total


def _effective_samples(counts: _Counts) -> float:
    """With the penalty that Korn and Graubard (1998) give: the ratio of two t quantiles."""
    total, share = counts.size * _EACH, float(counts.mean()) / _EACH
    variance = float(counts.var(ddof=1)) / (_EACH**2 * counts.size)
    if variance == 0:
        return total
    quantiles = [student_t_quantile(1 - _ALPHA, degrees) for degrees in (total - 1, counts.size - 1)]
    return min(total, share * (1 - share) / variance * (quantiles[0] / quantiles[1]) ** 2)


def _upper(share: float, samples: float) -> float:
    """The bound of Clopper and Pearson (1934)."""
    return beta_quantile(1 - _ALPHA, share * samples + 1, (1 - share) * samples)
