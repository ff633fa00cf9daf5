"""Warmth is seen, not assumed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.warm_up import KEPT_WINDOWS, WarmUp, WarmUpRule, warm_up

MS = 1_000_000


def warmed(latencies_ns: Iterator[int], rule: WarmUpRule) -> WarmUp:
    """A warm-up in simulated time."""
    now = 0

    def time_once() -> int:
        nonlocal now
        latency = next(latencies_ns)
        now += latency
        return latency

    return warm_up(time_once, rule, lambda: now)


def falling(first_ms: float, last_ms: float, over: int) -> Iterator[int]:
    """Latencies that fall in a straight line and then stay."""
    step = (first_ms - last_ms) / over
    index = 0
    while True:
        yield int(MS * max(last_ms, first_ms - step * index))
        index += 1


def test_a_steady_engine_takes_half_a_second() -> None:
    took = warmed(falling(1, 1, 1), WarmUpRule())
    assert took.settled
    assert took.count == 500
    assert took.window_medians_ns == (MS,) * 10


def test_a_slow_engine_takes_four_windows_of_two_seconds_and_a_hundred_inferences() -> None:
    assert warmed(falling(20, 20, 1), WarmUpRule()).count == 4 * 50
    assert warmed(falling(200, 200, 1), WarmUpRule()).count == 100
    assert warmed(falling(20, 20, 1), WarmUpRule(longest_window_ns=99 * MS)).count == 100


def test_a_very_slow_engine_is_warm_at_the_cap_where_it_was_steady() -> None:
    took = warmed(falling(1_000, 1_000, 1), WarmUpRule())
    assert (took.count, took.settled) == (30, True)


def test_on_a_noisy_machine_a_move_within_its_standard_error_counts_as_none() -> None:
    def noisy() -> Iterator[int]:
        generator = random.Random(3)
        while True:
            yield int(MS * generator.lognormvariate(0, 0.3))

    deaf = warmed(noisy(), WarmUpRule(cap_ns=20_000 * MS))
    aware = warmed(noisy(), WarmUpRule(cap_ns=20_000 * MS, steady_errors=2.0))
    assert aware.settled
    assert aware.elapsed_ns < 1_000 * MS < deaf.elapsed_ns


def test_a_trend_is_waited_for_on_a_noisy_machine_too() -> None:
    def noisy() -> Iterator[int]:
        generator = random.Random(3)
        yield from (int(latency * generator.lognormvariate(0, 0.05)) for latency in falling(4, 1, 2_000))

    assert warmed(noisy(), WarmUpRule(steady_errors=2.0)).count > 1_500


def test_an_engine_that_still_gets_faster_is_waited_for() -> None:
    took = warmed(falling(4, 1, 2_000), WarmUpRule())
    assert took.settled
    assert took.count > 2_000
    assert took.window_medians_ns[-1] == MS


def test_three_steady_moves_must_follow_one_another() -> None:
    def wavering() -> Iterator[int]:
        for window in (10, 10, 10, 12, 12, 12, 12, 12):
            yield from [window * MS] * 50

    took = warmed(wavering(), WarmUpRule(least_ns=0, least_count=0))
    assert took.settled
    assert took.count == 7 * 50


def test_the_cap_ends_a_warm_up_that_never_settles_and_it_is_said() -> None:
    def growing() -> Iterator[int]:
        latency = 1.0 * MS
        while True:
            yield int(latency)
            latency *= 1.001

    took = warmed(growing(), WarmUpRule(cap_ns=2_000 * MS))
    assert not took.settled
    assert 2_000 * MS <= took.elapsed_ns < 2_100 * MS


def test_the_cap_holds_before_the_first_window_too() -> None:
    took = warmed(falling(1_000, 1_000, 1), WarmUpRule(cap_ns=3_000 * MS))
    assert (took.count, took.settled, took.window_medians_ns) == (3, False, ())


def test_a_long_warm_up_keeps_its_last_windows() -> None:
    took = warmed(falling(4, 1, 2_000), WarmUpRule())
    assert len(took.window_medians_ns) == KEPT_WINDOWS


def test_a_rule_is_kept_by_json() -> None:
    rule = WarmUpRule(steady_share=0.5, cap_ns=7)
    assert WarmUpRule.from_json(JsonField(rule.to_json(), "rule", MeasurementError)) == rule
