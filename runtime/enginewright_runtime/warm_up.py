"""Warming an engine up until it is seen to be warm, which is not to be assumed (Barrett et al., arXiv 1602.00602)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from enginewright_runtime.canonical import Json
from enginewright_runtime.json_field import JsonField

KEPT_WINDOWS = 20
_SHORTEST = 5  # inferences in a window


@dataclass(frozen=True, kw_only=True)
class WarmUpRule:
    """When an engine counts as warm.

    It is warm after `least_ns` and `least_count` inferences, once the median of a window of `window` inferences has
    moved by less than `steady_share` `steady_times` times in a row. A move by less than `steady_errors` standard errors
    of itself counts as none, too: on a busy machine medians move by chance. A window that lasts longer than
    `longest_window_ns` is cut short, at five inferences the earliest. `cap_ns` ends it in any case.
    """

    least_ns: int = 500_000_000
    least_count: int = 100
    window: int = 50
    steady_share: float = 0.01
    steady_times: int = 3
    cap_ns: int = 30_000_000_000
    steady_errors: float = 0.0
    longest_window_ns: int = 2_000_000_000

    def to_json(self) -> dict[str, Json]:
        """The rule as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, field: JsonField) -> WarmUpRule:
        """Read what `to_json` wrote; the last two came with format 3 of a measurement."""
        fields = field.fields()
        return cls(
            least_ns=field.field("least_ns").integer(),
            least_count=field.field("least_count").integer(),
            window=field.field("window").integer(least=1),
            steady_share=field.field("steady_share").number(),
            steady_times=field.field("steady_times").integer(least=1),
            cap_ns=field.field("cap_ns").integer(least=1),
            steady_errors=fields["steady_errors"].number() if "steady_errors" in fields else 0.0,
            longest_window_ns=fields["longest_window_ns"].integer() if "longest_window_ns" in fields else 2_000_000_000,
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
    200
    """
    begin = clock_ns()
    windows: list[_Window] = []
    samples: list[int] = []
    count = steady = 0
    while (elapsed := clock_ns() - begin) < rule.cap_ns:
        if steady >= rule.steady_times and elapsed >= rule.least_ns and count >= rule.least_count:
            break
        samples.append(time_once())
        count += 1
        if len(samples) >= rule.window or (len(samples) >= _SHORTEST and sum(samples) > rule.longest_window_ns):
            windows.append(_Window(samples))
            samples.clear()
            steady = steady + 1 if _is_steady(windows[-2 - min(steady, rule.steady_times - 1) :], rule) else 0
    return WarmUp(
        count=count,
        elapsed_ns=clock_ns() - begin,
        settled=steady >= rule.steady_times,
        window_medians_ns=tuple(window.median for window in windows[-KEPT_WINDOWS:]),
    )


class _Window:
    """The median of some latencies, and its variance as that of a normal sample: (pi/2) sigma^2 / n."""

    def __init__(self, samples: list[int]) -> None:
        self.median = int(statistics.median(samples))
        sigma = 1.4826 * statistics.median(abs(sample - self.median) for sample in samples)
        self.variance = math.pi / 2 * sigma**2 / len(samples)


def _is_steady(windows: list[_Window], rule: WarmUpRule) -> bool:
    """Whether the last window moved little, and no trend hides in small moves since the first of these windows."""
    *earlier, now = windows
    if not earlier:
        return False
    return _has_not_moved(earlier[-1], now, 1, rule) and _has_not_moved(earlier[0], now, len(earlier), rule)


def _has_not_moved(before: _Window, now: _Window, windows: int, rule: WarmUpRule) -> bool:
    moved = abs(now.median - before.median)
    by_chance = rule.steady_errors * math.sqrt(now.variance + before.variance)
    return moved < max(windows * rule.steady_share * now.median, by_chance)
