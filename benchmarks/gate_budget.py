"""The budget rule at the exact limit: how often a p99 that is what the budget allows, and no less, is called PASS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from enginewright_runtime.stats import beta_quantile, korn_graubard

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
    """Lines: our bound, the bound for independent samples, and the p99 itself against the limit."""
    lines = [
        "the budget rule where p99 is exactly the limit: share called PASS (goal: 5 % at most)",
        f"{'world':<46} {'sessions':>8} {'ours':>7} {'independent':>12} {'p99 <= X':>9}",
    ]
    for name, world in _WORLDS.items():
        for sessions in (6, 8, 18, 40):
            generator = np.random.default_rng(3)
            shares = np.mean([_passes(world(generator, sessions)) for _ in range(gates)], axis=0)
            lines.append(f"{name:<46} {sessions:>8} {shares[0]:>7.1%} {shares[1]:>12.1%} {shares[2]:>9.1%}")
    return lines


def _passes(counts: _Counts) -> tuple[bool, bool, bool]:
    total = counts.size * _EACH
    beyond = int(counts.sum())
    ours = _upper(tuple(sorted(int(count) for count in counts)))
    independent = beta_quantile(1 - _ALPHA, beyond + 1, total - beyond)
    return ours <= _ALLOWED, independent <= _ALLOWED, beyond <= _ALLOWED * total


def _upper(counts: Sequence[int]) -> float:
    return korn_graubard(counts, _EACH, _ALPHA)[1]
