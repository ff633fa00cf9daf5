"""The decisions about precision, as functions of measured figures."""

from __future__ import annotations

import fnmatch

import pytest

from enginewright.graph.precision import Sensitivity, fewest_kept_float, most_noise_for_the_time, pattern_of
from enginewright.stopwatch import Saving, saving
from enginewright_runtime.errors import NotEnoughSamples


def test_a_saving_is_the_median_of_paired_differences_and_a_few_wild_rounds_do_not_move_it() -> None:
    slow = [200 + number % 3 for number in range(40)]
    fast = [180 + number % 3 for number in range(40)]
    fast[3] = fast[17] = 9_000  # the scheduler came by
    found = saving(fast, slow)
    assert (found.low_ns, found.median_ns, found.high_ns) == (20, 20, 20)


def test_equal_engines_have_an_interval_around_nothing() -> None:
    found = saving([100, 104, 99, 101, 103, 98, 102, 100, 97, 105], [103, 98, 102, 100, 101, 101, 99, 103, 104, 100])
    assert found.low_ns < 0 < found.high_ns


def test_a_handful_of_samples_carries_no_interval() -> None:
    with pytest.raises(NotEnoughSamples):
        saving([1, 2, 3], [4, 5, 6])


def test_the_noisiest_layer_for_its_time_returns_to_float_first() -> None:
    # Noise power per nanosecond: 1e-6 / 50, 1e-3 / 90,000 and 1e-4 / 10.
    sensitivities = {"quiet": Sensitivity(60.0, 0.0), "noisy": Sensitivity(30.0, 0.01), "cheap": Sensitivity(40.0, 0.0)}
    savings = {name: Saving(ns, ns, ns) for name, ns in {"quiet": 50.0, "noisy": 90_000.0, "cheap": 10.0}.items()}
    assert most_noise_for_the_time(sensitivities, savings) == ["cheap", "quiet", "noisy"]


@pytest.mark.parametrize("needed", range(7))
def test_bisection_finds_the_shortest_beginning_that_holds(needed: int) -> None:
    order = list("abcdef")
    asked: list[int] = []

    def holds(kept: object) -> bool:
        asked.append(len(list(kept)))  # type: ignore[call-overload]
        return asked[-1] >= needed

    assert fewest_kept_float(order, holds=holds) == order[:needed]
    assert len(asked) <= 3


def test_a_name_with_the_letters_of_patterns_matches_itself_alone() -> None:
    for name in ("/model/layers[0]/conv", "a*b", "what?", "plain"):
        assert fnmatch.fnmatchcase(name, pattern_of(name))
    assert not fnmatch.fnmatchcase("axb", pattern_of("a*b"))
