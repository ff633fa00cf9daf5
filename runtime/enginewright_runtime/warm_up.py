"""Warming an engine up until it is seen to be warm, which is not to be assumed (Barrett et al., arXiv 1602.00602)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from enginewright_runtime.canonical import Json
from enginewright_runtime.json_field import JsonField

KEPT_WINDOWS = 20


@dataclass(frozen=True, kw_only=True)
class WarmUpRule:
    """When an engine counts as warm.

    After `least_ns` and `least_count` inferences, windows of `window` inferences follow, until their median has moved
    by less than `steady_share` `steady_times` times in a row. `cap_ns` ends it in any case.
    """

    least_ns: int = 500_000_000
    least_count: int = 100
    window: int = 50
    steady_share: float = 0.01
    steady_times: int = 3
    cap_ns: int = 30_000_000_000

    def to_json(self) -> dict[str, Json]:
        """The rule as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, field: JsonField) -> WarmUpRule:
        """Read what `to_json` wrote."""
        return cls(
            least_ns=field.field("least_ns").integer(),
            least_count=field.field("least_count").integer(),
            window=field.field("window").integer(least=1),
            steady_share=field.field("steady_share").number(),
            steady_times=field.field("steady_times").integer(least=1),
            cap_ns=field.field("cap_ns").integer(least=1),
        )


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What a warm-up took.

    `settled` is false where the cap ended it. `window_medians_ns` has the last of the windows, KEPT_WINDOWS at most.
    """

    count: int
    elapsed_ns: int
    settled: bool
    window_medians_ns: tuple[int, ...]

    def to_json(self) -> dict[str, Json]:
        """The warm-up as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, field: JsonField) -> WarmUp:
        """Read what `to_json` wrote."""
        return cls(
            count=field.field("count").integer(),
            elapsed_ns=field.field("elapsed_ns").integer(),
            settled=field.field("settled").boolean(),
            window_medians_ns=field.field("window_medians_ns").integers(),
        )


def warm_up(time_once: Callable[[], int], rule: WarmUpRule, clock_ns: Callable[[], int]) -> WarmUp:
    """Run inferences until `rule` is met. `time_once` runs one and returns its nanoseconds.

    >>> warm_up(lambda: 1_000, WarmUpRule(least_ns=0, least_count=10), iter(range(10**6)).__next__).count
    210
    """
    begin = clock_ns()
    medians: list[int] = []
    window: list[int] = []
    count = steady = 0
    while steady < rule.steady_times:
        elapsed = clock_ns() - begin
        if elapsed >= rule.cap_ns:
            break
        sample = time_once()
        count += 1
        if elapsed < rule.least_ns or count <= rule.least_count:
            continue
        window.append(sample)
        if len(window) == rule.window:
            medians.append(int(statistics.median(window)))
            window.clear()
            moved = abs(medians[-1] - medians[-2]) if len(medians) > 1 else medians[-1]
            steady = steady + 1 if moved < rule.steady_share * medians[-1] else 0
    return WarmUp(
        count=count,
        elapsed_ns=clock_ns() - begin,
        settled=steady >= rule.steady_times,
        window_medians_ns=tuple(medians[-KEPT_WINDOWS:]),
    )
