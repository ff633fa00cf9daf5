"""The benchmark of a call's overhead: its arithmetic, and that it sees what grows."""

from __future__ import annotations

import pytest
import runtime_overhead


def test_a_difference_is_taken_within_each_round_so_that_a_disturbed_round_weighs_nothing() -> None:
    theirs = [3.0, 3.0, 90.0, 3.0, 3.0, 3.0, 50.0, 3.0]
    ours = [one + 2.0 for one in theirs]
    assert runtime_overhead.difference(ours, theirs) == (2.0, 2.0, 2.0)


def test_the_goal_is_missed_where_ours_is_too_far_above_the_fastest(capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = [9.0] * 20, [3.0] * 20
    assert not runtime_overhead.print_overhead({"enginewright": slow, "bare": slow, "bound once": fast})
    assert "above the fastest of them (bound once): MISSED" in capsys.readouterr().out
    assert runtime_overhead.print_overhead({"enginewright": [7.9] * 20, "bare": slow, "bound once": fast})


def test_a_call_that_keeps_something_is_seen_to_grow(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[object] = []
    assert not runtime_overhead.print_growth(lambda: kept.append(object()), 1_000)
    assert "IT GROWS" in capsys.readouterr().out


def test_it_runs_and_our_calls_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    runtime_overhead.main(["--rounds", "12", "--calls", "2000"])
    out = capsys.readouterr().out
    assert "nothing grows" in out
    assert all(f"above {name}" in out for name in ("bare", "bound anew", "bound once"))
