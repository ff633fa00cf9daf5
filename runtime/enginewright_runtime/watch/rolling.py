"""The rolling window of a watch, and how it is judged. Pure: no clock and no disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginewright_runtime.bench.percentiles import percentiles_ns
from enginewright_runtime.budget import Evidence, Finding, Verdict, judge, overall
from enginewright_runtime.canonical import Json
from enginewright_runtime.json_field import JsonField

FORMAT = 1  # of the JSON lines; 1: the first
LOOPBACK = "127.0.0.1"
FAILED = -1  # stands for a call that raised, in place of its nanoseconds
_BLOCKS = 10


@dataclass(frozen=True, kw_only=True)
class WatchRule:
    """Every `every_s` seconds the calls of the last `window_s` seconds are judged."""

    every_s: float = 10.0
    window_s: float = 60.0

    @property
    def looks(self) -> int:
        """Judgements in an hour: over all of them together, a bound is wrong with the budgets' usual risk."""
        return max(round(3600 / self.every_s), 1)

    def to_json(self) -> dict[str, Json]:
        """The rule as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, field: JsonField) -> WatchRule:
        """Read what `to_json` wrote."""
        return cls(every_s=field.field("every_s").number(), window_s=field.field("window_s").number())


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the window says now, and what has come since the beginning."""

    at_s: float
    window_s: float
    calls: int
    calls_total: int
    failures_total: int
    elapsed_total_ns: int
    latency_ns: Mapping[str, Json]
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """FAIL if any latency is beyond its budget, else INCONCLUSIVE if any is open, else PASS."""
        return overall(self.findings) if self.findings else Verdict.INCONCLUSIVE

    def to_json(self) -> dict[str, Json]:
        """The judgement as a JSON object."""
        return {
            **vars(self),
            "format": FORMAT,
            "verdict": self.verdict.value,
            "findings": [finding.to_json() for finding in self.findings],
        }


class RollingWindow:
    """The calls of the last `rule.window_s` seconds, judged against the latencies of a budget."""

    def __init__(self, budget: Mapping[str, float], rule: WatchRule) -> None:
        self._budget = {name: limit for name, limit in budget.items() if name.startswith("latency_")}
        self._rule = rule
        self._parts: deque[tuple[float, list[int]]] = deque()
        self._coming: list[int] = []
        self._calls_total = self._failures_total = self._elapsed_total_ns = 0

    def add(self, samples_ns: Sequence[int]) -> None:
        """Calls that came, in their order; FAILED stands for one that raised."""
        good = [sample for sample in samples_ns if sample >= 0]
        self._coming += good
        self._calls_total += len(good)
        self._failures_total += len(samples_ns) - len(good)
        self._elapsed_total_ns += sum(good)

    def judge(self, at_s: float, steady_s: float) -> Judgement:
        """Close the part that is coming, forget what is older than the window, and judge the rest.

        `at_s` is the time that the judgement bears. The window goes by `steady_s`, a clock that is never set: a
        vehicle's time of day jumps when it first hears of a satellite or a server.
        """
        self._parts.append((steady_s, self._coming))
        self._coming = []
        while self._parts[0][0] <= steady_s - self._rule.window_s:
            self._parts.popleft()
        samples = [sample for _, part in self._parts for sample in part]
        evidence = Evidence(sessions_ns=blocks(samples), looks=self._rule.looks)
        return Judgement(
            at_s=at_s,
            window_s=self._rule.window_s,
            calls=len(samples),
            calls_total=self._calls_total,
            failures_total=self._failures_total,
            elapsed_total_ns=self._elapsed_total_ns,
            latency_ns=percentiles_ns(samples),
            findings=judge(self._budget, evidence),
        )


def blocks(samples: Sequence[int]) -> list[Sequence[int]]:
    """Ten stretches of equal length, in order: neighbours resemble each other, so each stretch counts as a session.

    What is left over is at the beginning, and left out; of fewer than ten samples there are no stretches.

    >>> blocks(range(12))[0], len(blocks(range(12))), blocks(range(9))
    (range(2, 3), 10, [])
    """
    each = len(samples) // _BLOCKS
    first = len(samples) - each * _BLOCKS
    return [samples[start : start + each] for start in range(first, len(samples), each)] if each else []
