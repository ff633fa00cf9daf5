"""Frames at a camera's rate: which are answered, which are dropped, and what counts as a missed deadline."""

from __future__ import annotations

import pytest

from enginewright_runtime.bench.arrivals import Arrivals, take_arrivals
from enginewright_runtime.bench.rate import Deadlines, deadline_line, deadlines
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.json_field import JsonField


class Camera:
    """A clock that only inferences and sleeping move on."""

    def __init__(self, services_ns: list[int], *, wakes_late_by_ns: int = 0) -> None:
        self.now = 1_000_000
        self.services_ns = iter(services_ns)
        self.late = wakes_late_by_ns

    def infer(self) -> None:
        self.now += next(self.services_ns)

    def sleep_until(self, due_ns: int) -> None:
        assert due_ns > self.now
        self.now = due_ns + self.late

    def take(self, frames: int, *, period_ns: int = 100) -> Arrivals:
        return take_arrivals(
            self.infer, period_ns=period_ns, frames=frames, clock_ns=lambda: self.now, sleep_until=self.sleep_until
        )


def test_a_fast_engine_answers_every_frame_when_it_arrives() -> None:
    found = Camera([30, 40, 50]).take(3)
    assert found == Arrivals(100, 3, (0, 1, 2), (0, 100, 200), (30, 140, 250))
    assert (found.responses_ns(), found.services_ns(), found.waits_ns()) == ([30, 40, 50], [30, 40, 50], [0, 0, 0])
    assert (found.dropped, found.missed(100), found.missed(45)) == (0, 0, 1)


def test_a_frame_that_arrives_during_an_inference_waits_for_its_end() -> None:
    found = Camera([150, 10, 10]).take(3)
    assert found.indices == (0, 1, 2)
    assert found.responses_ns() == [150, 60, 10]
    assert found.waits_ns() == [0, 50, 0]
    assert found.missed(100) == 1


def test_of_the_frames_that_arrive_during_an_inference_the_newest_is_answered_and_the_others_are_missed() -> None:
    found = Camera([370, 10, 10, 10]).take(6)
    assert found.indices == (0, 3, 4, 5)
    assert found.dropped == 2
    assert found.responses_ns() == [370, 80, 10, 10]
    assert found.missed(100) == 3


def test_an_engine_that_is_slower_than_the_last_frame_ends_with_the_last_frame() -> None:
    found = Camera([10_000, 5]).take(4)
    assert found.indices == (0, 3)
    assert found.missed(10_000) == 2


def test_waking_up_late_is_part_of_the_response_and_not_of_the_inference() -> None:
    found = Camera([30, 30], wakes_late_by_ns=20).take(2)
    assert found.responses_ns() == [50, 50]
    assert found.services_ns() == [30, 30]


def test_arrivals_are_read_back_as_they_were_written() -> None:
    found = Camera([370, 10, 10, 10]).take(6)
    assert Arrivals.from_json(JsonField(found.to_json(), "answer", MeasurementError)) == found
    with pytest.raises(MeasurementError, match="indices"):
        Arrivals.from_json(JsonField({**found.to_json(), "indices": 3}, "answer", MeasurementError))


def session_with(missed: int, frames: int = 300) -> Arrivals:
    """A session in which so many frames are late by far."""
    begins = tuple(1_000 * index for index in range(frames))
    ends = tuple(begin + (900 if index < missed else 100) for index, begin in enumerate(begins))
    return Arrivals(1_000, frames, tuple(range(frames)), begins, ends)


def test_a_share_of_missed_deadlines_has_an_interval_that_knows_of_the_processes() -> None:
    alike = deadlines([session_with(3), session_with(3), session_with(3), session_with(3)], 500)
    apart = deadlines([session_with(12), session_with(0), session_with(0), session_with(0)], 500)
    assert (alike.missed, apart.missed, alike.frames) == (12, 12, 1200)
    assert alike.interval is not None
    assert apart.interval is not None
    assert alike.interval[0] < 0.01 < alike.interval[1]
    assert apart.interval[1] > 2 * alike.interval[1]


def test_a_deadline_is_told_in_words() -> None:
    assert deadline_line(Deadlines(2, 1, 300, None), 33_333_333, 5_000_000) == (
        "deadline 5 ms: 2 of 300 frames missed, 1 of these dropped for a newer one; an interval needs two processes or more"
    )
    assert deadline_line(Deadlines(0, 0, 600, (0.0, 0.0061)), 40_000_000, 40_000_000) == (
        "deadline 40 ms (when the next frame is due): 0 of 600 frames missed, 0 of these dropped for a newer one, "
        "between 0.00% and 0.61% of them"
    )
