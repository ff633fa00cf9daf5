"""What the gate found: a finding for each metric against each baseline, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginewright.errors import listed
from enginewright_runtime.budget import Verdict, worst
from enginewright_runtime.canonical import Json
from enginewright_runtime.sequential import Change, Limits

__all__ = [
    "FORMAT",
    "Comparison",
    "GateFinding",
    "GateResult",
    "finding_of_change",
    "finding_of_share",
    "shown",
    "undecided",
]

FORMAT = 1  # 1: the first

_WORDS = {
    "centre": "latency",
    "p90": "p90 latency",
    "tail": "slow inferences",
    "size": "engine size",
    "memory": "memory",
}
_UNBOUNDED = 100.0


@dataclass(frozen=True, kw_only=True)
class GateFinding:
    """The verdict on one metric. The figures are shares by which the candidate has more than the baseline; `accuracy`
    is the share of samples that it lost. None is unknown.
    """

    metric: str
    verdict: Verdict
    sentence: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limits: Limits | None = None

    def to_json(self) -> dict[str, Json]:
        """The finding as a JSON object."""
        limits = dict(vars(self.limits)) if self.limits else None
        return {**vars(self), "verdict": self.verdict.value, "limits": limits}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The candidate against one baseline. `sessions` counts those that were valid."""

    against: str
    findings: tuple[GateFinding, ...]
    sessions: int = 0
    dropped_share: float = 0.0
    stopped: str = ""

    @property
    def verdict(self) -> Verdict:
        return worst(finding.verdict for finding in self.findings)

    @property
    def reason(self) -> str:
        """The verdict's reason in one sentence."""
        if self.verdict is Verdict.PASS:
            return f"{listed([_WORDS.get(one.metric, one.metric) for one in self.findings])} are within the limits"
        cause = next(finding for finding in self.findings if finding.verdict is self.verdict).sentence
        return f"{self.stopped}: {cause}" if self.stopped and self.verdict is Verdict.INCONCLUSIVE else cause


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """All that the gate found. `samples` are the timed inferences of the candidate; `host` is the fingerprint."""

    candidate: str
    profile: str
    comparisons: tuple[Comparison, ...]
    samples: int
    seconds: float
    host: Mapping[str, Json]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of all baselines."""
        return worst(comparison.verdict for comparison in self.comparisons)

    @property
    def reason(self) -> str:
        """The reason of the first comparison that has the verdict, in one sentence."""
        decisive = next(one for one in self.comparisons if one.verdict is self.verdict)
        where = f"against {decisive.against}: " if len(self.comparisons) > 1 else ""
        return f"{where}{decisive.reason}"

    def to_json(self) -> dict[str, Any]:
        """What `enginewright gate --json` prints."""
        return {
            "format": FORMAT,
            "candidate": self.candidate,
            "profile": self.profile,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "samples": self.samples,
            "comparisons": [
                {
                    "against": one.against,
                    "verdict": one.verdict.value,
                    "reason": one.reason,
                    "sessions": one.sessions,
                    "dropped_share": one.dropped_share,
                    "findings": [finding.to_json() for finding in one.findings],
                }
                for one in self.comparisons
            ],
            "notes": list(self.notes),
            "host": dict(self.host),
        }


def undecided(metric: str, why: str) -> GateFinding:
    """A metric that cannot be judged, and why, as a clause."""
    return GateFinding(
        metric=metric, verdict=Verdict.INCONCLUSIVE, sentence=f"{_WORDS.get(metric, metric)} cannot be judged: {why}"
    )


def finding_of_change(change: Change, decided: Verdict | None) -> GateFinding:
    """A latency metric's finding. What is open when the gate has passed or failed as a whole stays INCONCLUSIVE."""
    verdict = change.verdict if decided is not None and change.verdict else Verdict.INCONCLUSIVE
    return GateFinding(
        metric=change.metric,
        verdict=verdict,
        sentence=_sentence(change.metric, (change.value, change.low, change.high), change.limits, verdict),
        value=change.value,
        low=change.low,
        high=change.high,
        limits=change.limits,
    )


def finding_of_share(metric: str, limits: Limits, value: float, bounds: tuple[float, float]) -> GateFinding:
    """A metric that is judged once: FAIL where it is surely beyond the limit, PASS where surely within."""
    low, high = bounds
    beyond, within = low > limits.fail_beyond + 1e-9, high <= limits.pass_within + 1e-9
    verdict = Verdict.FAIL if beyond else Verdict.PASS if within else Verdict.INCONCLUSIVE
    return GateFinding(
        metric=metric,
        verdict=verdict,
        sentence=_sentence(metric, (value, low, high), limits, verdict),
        value=value,
        low=low,
        high=high,
        limits=limits,
    )


def shown(metric: str, share: float) -> str:
    """A figure of a metric as people read it.

    >>> shown("centre", 0.0123), shown("tail", 0.5), shown("accuracy", 0.0012), shown("size", -1e-6)
    ('+1.2 %', '1.5 times', '-0.12 points', '+0.0 %')
    """
    if metric == "tail":
        return f"{1 + share:.2g} times" if share < _UNBOUNDED else "any number"
    # Adding 0.0 makes a zero of the one that rounding leaves with a minus.
    return (
        f"{round(-100 * share, 2) + 0.0:+.2f} points"
        if metric == "accuracy"
        else f"{round(100 * share, 1) + 0.0:+.1f} %"
    )


def _sentence(metric: str, figures: tuple[float, float, float], limits: Limits, verdict: Verdict) -> str:
    value, low, high = figures
    exact = low == high
    figure = shown(metric, value) + (" the baseline's" if metric == "tail" else "")
    spread = "" if exact else f" ({shown(metric, low)} to {shown(metric, high)})"
    change = "slow inferences are" if metric == "tail" else f"{_WORDS.get(metric, metric)} changed by"
    beyond, within = shown(metric, limits.fail_beyond), shown(metric, limits.pass_within)
    surely = "" if exact else "surely "
    said = {
        Verdict.FAIL: f"{surely}beyond {beyond}",
        Verdict.PASS: f"{surely}within {within}",
        Verdict.INCONCLUSIVE: f"neither surely beyond {beyond} nor surely within {within}",
    }
    return f"{change} {figure}{spread}: {said[verdict]}"
