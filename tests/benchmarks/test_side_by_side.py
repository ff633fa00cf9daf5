"""Ratios between engines that were measured in one run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from side_by_side import Accuracy, Spread, speed_up


def _session(reference_ns: int, engine_ns: int) -> SimpleNamespace:
    times = {"float": (reference_ns,) * 5, "int8": (engine_ns,) * 5}
    return SimpleNamespace(
        samples_ns=times, cpu_ns={label: tuple(2 * one for one in many) for label, many in times.items()}
    )


def test_a_speed_up_is_the_ratio_of_each_session_and_not_of_the_pooled_times() -> None:
    # A machine that was four times slower in one session slowed both engines down.
    measured = SimpleNamespace(sessions=[_session(200, 100), _session(800, 400), _session(300, 100)])
    found = speed_up(measured, "int8", reference="float", clock="samples_ns")
    assert (found.median, found.low, found.high) == (2.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("accuracy", "text"),
    [
        (Accuracy(0.95, -0.0233, (-0.03, -0.016)), "-2.33 (-3.00 to -1.60)"),
        (Accuracy(0.95, 0.001, None), "+0.10"),
    ],
)
def test_a_change_of_accuracy_is_told_in_points_with_its_sign(accuracy: Accuracy, text: str) -> None:
    assert accuracy.points() == text


def test_a_spread_shows_the_median_and_the_range() -> None:
    assert str(Spread.of([1.5, 1.25, 9.0])) == "1.50 (1.25 to 9.00)"
