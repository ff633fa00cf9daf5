"""Which rounds of a session count, and what the rule sees of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from enginewright_runtime.chunk_conditions import GROWTHS, STATES, Columns
from enginewright_runtime.measurement import SessionRecord
from enginewright_runtime.paired import PairRecord, disturbed_rounds, pair, share_dropped
from enginewright_runtime.warm_up import WarmUp

BOTH = ("baseline", "candidate")


def session(*, slower: float = 1.0, rounds: int = 40, conditions: dict[str, Columns] | None = None) -> SessionRecord:
    """A session of two engines of about 1 ms, the candidate `slower` times slower."""
    generator = np.random.default_rng(0)
    noise = {label: 1e6 * np.exp(0.02 * generator.standard_normal(rounds * 5)) for label in BOTH}
    noise["candidate"] *= slower
    warm = WarmUp(count=200, elapsed_ns=2_000_000_000, settled=True, window_medians_ns=(1,))
    return SessionRecord(
        samples_ns={label: tuple(int(value) for value in values) for label, values in noise.items()},
        cpu_ns=dict.fromkeys(BOTH, (0,) * rounds),
        warm_up=dict.fromkeys(BOTH, warm),
        peak_rss_bytes=dict.fromkeys(BOTH, 1),
        conditions_before={},
        conditions_after={},
        chunk_conditions=conditions or {},
    )


def quiet(rounds: int = 40, **changed: tuple[int | str | None, ...]) -> Columns:
    """The conditions of a machine that nothing disturbs, but for the columns given."""
    states = dict.fromkeys(STATES, (7,) * rounds)
    return {**states, **dict.fromkeys(GROWTHS, (0,) * rounds), **changed}


def at(value: int, *rounds: int, otherwise: int = 0) -> tuple[int, ...]:
    """A column with a value at some rounds."""
    return tuple(value if index in rounds else otherwise for index in range(40))


def test_a_session_becomes_a_centre_a_p90_and_counts_of_the_slowest() -> None:
    found = pair(session(slower=1.1), *BOTH)
    assert (found.rounds, found.dropped, found.reason) == (40, 0, "")
    assert found.statistics is not None
    assert found.statistics.centre == pytest.approx(math.log(1.1), abs=0.01)
    assert found.statistics.p90 == pytest.approx(math.log(1.1), abs=0.01)
    assert (found.statistics.slow_baseline, found.statistics.slow_candidate) == (0, 4)


def test_the_other_way_round_the_change_has_the_other_sign() -> None:
    one, other = pair(session(slower=1.1), *BOTH).statistics, pair(session(slower=1.1), *BOTH[::-1]).statistics
    assert one is not None
    assert other is not None
    assert one.centre == pytest.approx(-other.centre)
    assert (one.slow_baseline, one.slow_candidate) == (other.slow_candidate, other.slow_baseline)


@pytest.mark.parametrize(
    ("changed", "out"),
    [
        ({"thermal_throttles": at(1, 3)}, {3}),
        ({"quota_throttled_us": at(900, 0, 39)}, {0, 39}),
        ({"clock_limit_khz": at(1_200_000, 7, 8, otherwise=2_000_000)}, {7, 8}),
        ({"governor": tuple("performance" if index < 38 else "powersave" for index in range(40))}, {38, 39}),
        ({"clock_khz": at(1_800_000, 5, otherwise=2_000_000)}, {5}),
        ({"clock_khz": at(1_910_000, 5, otherwise=2_000_000)}, set()),
        ({"clock_khz": (None,) * 40}, set()),
        ({"pressure_stalled_us": at(5_000, 1), "steal_ticks": at(3, 2)}, set()),
        ({"temperature_millidegrees": at(90_000, 4, otherwise=50_000)}, set()),
        ({"gpu_throttles": at(1, 6)}, {6}),
        ({"gpu_throttles": (None,) * 40}, set()),
        ({"gpu_clock_khz": at(1_600_000, 5, otherwise=1_980_000)}, {5}),
        ({"gpu_clock_khz": at(1_965_000, 5, otherwise=1_980_000)}, set()),
        ({"gpu_clock_limit_khz": at(900_000, 7, otherwise=1_300_500)}, {7}),
        ({"gpu_held_back_by": ("nothing",) * 39 + ("power cap",)}, {39}),
        ({"gpu_held_back_by": ("power cap",) * 40}, set()),
    ],
)
@pytest.mark.parametrize("label", BOTH)
def test_a_round_is_dropped_for_clocks_and_throttles_of_either_engine_and_nothing_else(
    label: str, changed: dict[str, tuple[int | str | None, ...]], out: set[int]
) -> None:
    conditions = {**dict.fromkeys(BOTH, quiet()), label: quiet(**changed)}
    assert disturbed_rounds(session(conditions=conditions), BOTH, 40) == out


def test_an_engine_with_a_clock_of_its_own_is_not_dropped_for_it() -> None:
    conditions = {"baseline": quiet(clock_khz=(3_000_000,) * 40), "candidate": quiet(clock_khz=(2_500_000,) * 40)}
    assert disturbed_rounds(session(conditions=conditions), BOTH, 40) == frozenset()


def test_the_samples_of_a_dropped_round_are_not_seen() -> None:
    conditions = {"baseline": quiet(), "candidate": quiet(thermal_throttles=at(1, 0))}
    disturbed = session(conditions=conditions)
    spoiled = {**disturbed.samples_ns, "candidate": (10**12,) * 5 + disturbed.samples_ns["candidate"][5:]}
    found, clean = pair(replace(disturbed, samples_ns=spoiled), *BOTH), pair(disturbed, *BOTH)
    assert found == clean
    assert found.dropped == 1


def test_the_rule_that_drops_never_looks_at_a_latency() -> None:
    usual = session(conditions=dict.fromkeys(BOTH, quiet(thermal_throttles=at(2, 9))))
    wild = replace(usual, samples_ns={label: tuple(range(1, 201)) for label in BOTH})
    assert disturbed_rounds(usual, BOTH, 40) == disturbed_rounds(wild, BOTH, 40) == {9}


def test_a_pair_is_invalid_where_one_of_it_never_became_steady() -> None:
    warm = session().warm_up
    unsettled = replace(session(), warm_up={**warm, "candidate": replace(warm["candidate"], settled=False)})
    assert pair(unsettled, *BOTH) == PairRecord(40, 40, None, "the candidate never became steady while warming up")


def test_a_pair_is_invalid_where_too_few_rounds_are_left_for_a_p99_of_both() -> None:
    conditions = dict.fromkeys(BOTH, quiet(thermal_throttles=at(1, *range(11))))
    found = pair(session(conditions=conditions), *BOTH)
    assert (found.statistics, found.dropped) == (None, 40)
    assert found.reason == "clocks or throttling disturbed 11 of 40 rounds"
    fewer = dict.fromkeys(BOTH, quiet(thermal_throttles=at(1, *range(10))))
    assert pair(session(conditions=fewer), *BOTH).dropped == 10


def test_the_share_dropped_counts_rounds_and_whole_pairs() -> None:
    assert share_dropped([PairRecord(40, 4, None), PairRecord(40, 40, None), PairRecord(40, 0, None)]) == 44 / 120
    assert share_dropped([]) == 0
