"""Judging evidence against budgets: PASS, FAIL or INCONCLUSIVE, and why; PENDING where the device is still to be asked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import numpy as np
import numpy.typing as npt

from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.stats import korn_graubard, percentile

ALPHA = 0.05  # each one-sided bound is wrong with at most this probability, over all looks together
_MIB = 1 << 20


class Verdict(str, Enum):
    """What the evidence says about a budget. PENDING: there is none yet, because it is taken on another device."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    PENDING = "PENDING"

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command whose last word is this verdict."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.PASS: ExitCode.OK,
    Verdict.FAIL: ExitCode.FAILED,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Verdict.PENDING: ExitCode.INCONCLUSIVE,
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured; None and empty mean that nothing was.

    `sessions_ns`: the latencies of each session. `accuracy_drop`: the reference's accuracy less the engine's, as a
    share, and `accuracy_drop_interval` its confidence interval; without one the drop is taken as exact. `looks`: how
    often latencies are judged at most, where more are taken as long as the verdict is INCONCLUSIVE; the risk is split
    between the looks (Bonferroni).
    """

    sessions_ns: Sequence[Sequence[int]] = ()
    looks: int = 1
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    accuracy_drop: float | None = None
    accuracy_drop_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Finding:
    """The verdict on one budget.

    `value`, `low` and `high` (its confidence interval) are in the unit of `limit`, and None where unknown.
    """

    name: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    sentence: str

    def to_json(self) -> dict[str, Json]:
        """The finding as a JSON object."""
        return {**vars(self), "verdict": self.verdict.value}


def judge(budget: Mapping[str, float], evidence: Evidence) -> tuple[Finding, ...]:
    """One finding for each budget that is demanded, in their order.

    PASS: the upper confidence bound is within the limit. FAIL: the lower one is beyond it. Otherwise, and where
    nothing was measured, INCONCLUSIVE.

    >>> [finding] = judge({"size_mib": 2.0}, Evidence(size_bytes=3 << 20))
    >>> finding.verdict.value, finding.sentence
    ('FAIL', 'size_mib is 3, beyond the budget of 2')
    """
    return tuple(
        BUDGET_RULES[name](name, limit, evidence)
        if name in BUDGET_RULES
        else _unmeasured(name, limit, "this runtime does not know that budget")
        for name, limit in budget.items()
    )


def pending(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The same findings for an engine that was not measured yet: those without a value are PENDING."""
    return tuple(
        replace(finding, verdict=Verdict.PENDING, sentence=f"{finding.name} is pending: the device tells it")
        if finding.value is None
        else finding
        for finding in findings
    )


def overall(findings: Sequence[Finding]) -> Verdict:
    """FAIL if any budget is missed, else PENDING or INCONCLUSIVE if any is open, else PASS."""
    return worst(finding.verdict for finding in findings)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """FAIL if any is, else PENDING or INCONCLUSIVE if any is, else PASS."""
    present = set(verdicts)
    order = (Verdict.FAIL, Verdict.PENDING, Verdict.INCONCLUSIVE)
    return next((one for one in order if one in present), Verdict.PASS)


def _latency(percent: float, name: str, limit: float, evidence: Evidence) -> Finding:
    """The share of inferences slower than the limit, bounded over the sessions, against what the percentile allows."""
    sessions = [np.sort(np.asarray(session, dtype=np.int64)) for session in evidence.sessions_ns]
    if not sessions or not sessions[0].size:
        return _unmeasured(name, limit, "no latency was measured")
    if len({session.size for session in sessions}) != 1:
        return _unmeasured(name, limit, "the sessions have different numbers of samples")
    allowed = (100 - percent) / 100
    alpha = ALPHA / evidence.looks
    try:
        value = percentile(np.concatenate(sessions), percent) / 1e6
        low, high = _share_beyond(sessions, alpha, limit * 1e6)
    except NotEnoughSamples as error:
        return _unmeasured(name, limit, error.message)
    low_ns, high_ns = percentile_interval_ns(sessions, percent, alpha=alpha)
    low_ms, high_ms = low_ns / 1e6, None if high_ns is None else high_ns / 1e6
    verdict = Verdict.PASS if high <= allowed else Verdict.FAIL if low > allowed else Verdict.INCONCLUSIVE
    shares = f"{low:.2%} to {high:.2%} of inferences are slower than it, and {allowed:.0%} may be"
    return Finding(name, limit, value, low_ms, high_ms, verdict, f"{_relation(name, value, limit, verdict)}: {shares}")


def _share_beyond(sessions: Sequence[npt.NDArray[np.int64]], alpha: float, limit_ns: float) -> tuple[float, float]:
    """Bounds for the share of inferences slower than the limit; each session is sorted."""
    each = sessions[0].size
    beyond = [each - int(np.searchsorted(session, limit_ns, side="right")) for session in sessions]
    return korn_graubard(beyond, each, alpha)


def percentile_interval_ns(
    sessions_ns: Sequence[Sequence[int] | npt.NDArray[np.int64]], percent: float, *, alpha: float = ALPHA
) -> tuple[float, float | None]:
    """The samples between which a percentile lies: a budget fails below the first, and passes from the second on.

    Each end is wrong with a probability of `alpha` at most. The second is None where no sample is a limit that passes.
    Raises NotEnoughSamples below two sessions; all have as many samples.
    """
    sessions = [np.sort(np.asarray(session, dtype=np.int64)) for session in sessions_ns]
    allowed = (100 - percent) / 100
    share_beyond = partial(_share_beyond, sessions, alpha)
    limits = [float(sample) for sample in np.sort(np.concatenate(sessions))]
    passing = bisect_left(limits, True, key=lambda limit: share_beyond(limit)[1] <= allowed)
    failing = bisect_left(limits, True, key=lambda limit: share_beyond(limit)[0] <= allowed)
    # Beyond the largest sample there is nothing, so that a budget of it never fails, and `failing` is always an index.
    return limits[failing], limits[passing] if passing < len(limits) else None


def _size(name: str, limit: float, evidence: Evidence) -> Finding:
    return _exact(name, limit, evidence.size_bytes, "no engine was built")


def _memory(name: str, limit: float, evidence: Evidence) -> Finding:
    return _exact(name, limit, evidence.peak_memory_bytes, "no memory was measured")


def _exact(name: str, limit: float, measured_bytes: int | None, absent: str) -> Finding:
    if measured_bytes is None:
        return _unmeasured(name, limit, absent)
    value = measured_bytes / _MIB
    return _bounded(name, limit, value, (value, value))


def _accuracy_drop(name: str, limit: float, evidence: Evidence) -> Finding:
    drop = evidence.accuracy_drop
    if drop is None:
        return _unmeasured(name, limit, "no accuracy was measured")
    return _bounded(name, limit, drop, evidence.accuracy_drop_interval or (drop, drop))


def _bounded(name: str, limit: float, value: float, interval: tuple[float, float]) -> Finding:
    low, high = interval
    verdict = Verdict.PASS if high <= limit else Verdict.FAIL if low > limit else Verdict.INCONCLUSIVE
    spread = f" (between {low:.4g} and {high:.4g})" if low != high else ""
    return Finding(name, limit, value, low, high, verdict, f"{_relation(name, value, limit, verdict)}{spread}")


def _unmeasured(name: str, limit: float, reason: str) -> Finding:
    return Finding(name, limit, None, None, None, Verdict.INCONCLUSIVE, f"{name} cannot be judged: {reason}")


def _relation(name: str, value: float, limit: float, verdict: Verdict) -> str:
    relation = {
        Verdict.PASS: f"within the budget of {limit:g}",
        Verdict.FAIL: f"beyond the budget of {limit:g}",
        Verdict.INCONCLUSIVE: f"neither surely within nor surely beyond the budget of {limit:g}",
    }
    return f"{name} is {value:.4g}, {relation[verdict]}"


BUDGET_RULES: dict[str, Callable[[str, float, Evidence], Finding]] = {
    "latency_p50_ms": partial(_latency, 50),
    "latency_p99_ms": partial(_latency, 99),
    "size_mib": _size,
    "memory_mib": _memory,
    "accuracy_drop": _accuracy_drop,
}
