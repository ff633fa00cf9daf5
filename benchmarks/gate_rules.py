"""What a gate says: ours, and the rules that it is set beside, each with the samples that it takes by default."""

from __future__ import annotations

import numpy as np
from gate_worlds import Machine

from enginewright_runtime.budget import Verdict
from enginewright_runtime.paired import paired_statistics
from enginewright_runtime.sequential import LOOKS, Profile, decide
from enginewright_runtime.stats import percentile

__all__ = ["asv", "naive", "ours", "pyperf"]

_STARTS_S = 1.2  # two processes that import a library and open an engine
_WARM_UP_S, _WARM_UP_COUNT = 1.0, 100  # of each engine: one second, and four windows of 25 inferences


def ours(
    machine: Machine, generator: np.random.Generator, change: float, profile: Profile
) -> tuple[Verdict, int, float]:
    """The verdict, after how many sessions, and the seconds that they take on this machine."""
    sessions, seconds = [], 0.0
    for look in LOOKS:
        while len(sessions) < look:
            before, after = machine.pair(generator, change)
            sessions.append(paired_statistics(before.astype(np.int64), after.astype(np.int64)))
            seconds += _session_seconds(before.mean() / 1e9, after.mean() / 1e9, before.size)
        decision = decide(sessions, profile)
        if decision.verdict is not None:
            return decision.verdict, look, seconds
    raise AssertionError("the last look decides")


def _session_seconds(*latencies_s: float | int) -> float:
    *latencies, samples = latencies_s
    inferences = samples * 6 / 5  # one of each chunk is dropped
    return _STARTS_S + sum(max(_WARM_UP_S, _WARM_UP_COUNT * one) + inferences * one for one in latencies)


def naive(machine: Machine, generator: np.random.Generator, change: float) -> bool:
    """FAIL where p50 grew by 5 % against a stored number: one process each, 200 inferences, on different days."""
    before = percentile(machine.alone(generator, 0.0, 1, 200).ravel(), 50)
    after = percentile(machine.alone(generator, change, 1, 200).ravel(), 50)
    return after > 1.05 * before


def pyperf(machine: Machine, generator: np.random.Generator, change: float) -> bool:
    """FAIL where `pyperf compare_to` calls it significantly slower than a result of another time: 20 processes each,
    three values a process, each the mean of as many inferences as take 0.1 s; Student's t-test at 95 %, two-sided.
    """
    from scipy import stats

    before, after = (
        machine.alone(generator, slower, 20, 30).reshape(20, 3, 10).mean(axis=2).ravel() for slower in (0.0, change)
    )
    return bool(after.mean() > before.mean() and stats.ttest_ind(before, after).pvalue < 0.05)


def asv(machine: Machine, generator: np.random.Generator, change: float, factor: float = 1.1) -> bool:
    """FAIL where `asv continuous` calls it worse: two rounds of processes in turn, ten samples each, the medians apart
    by more than the factor (1.1 by default), and a Mann-Whitney test below 0.002.
    """
    from scipy import stats

    before, after = (one.ravel() for one in machine.beside(generator, change, 2, 10))
    if np.median(after) <= factor * np.median(before):
        return False
    return bool(stats.mannwhitneyu(before, after).pvalue < 0.002)
