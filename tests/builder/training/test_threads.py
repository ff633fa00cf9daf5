"""How many threads train."""

from __future__ import annotations

import pytest

from enginewright.training.threads import Threads


class Machine:
    """An update takes what `times` says for the number of threads that was set last."""

    def __init__(self, times: dict[int, int], *, most: int) -> None:
        self.times, self.now, self.used = times, 0, [most]
        self.threads = Threads(most, self.used.append, clock_ns=lambda: self.now)

    def epoch(self, updates: int = 10) -> int:
        self.threads.begin_epoch()
        for _ in range(updates):
            with self.threads.for_update():
                self.now += self.times[self.used[-1]]
        return self.used[-1]


def test_two_threads_train_where_they_are_faster():
    assert Machine({2: 100, 1: 160}, most=2).epoch() == 2


def test_one_thread_trains_where_two_wait_for_another_process():
    assert Machine({2: 2000, 1: 300}, most=2).epoch() == 1


def test_each_epoch_looks_again():
    machine = Machine({2: 2000, 1: 300}, most=2)
    machine.epoch()
    machine.times[2] = 150
    assert machine.epoch() == 2


def test_from_many_threads_the_number_is_halved_as_long_as_that_helps():
    machine = Machine({16: 900, 8: 500, 4: 300, 2: 400, 1: 700}, most=16)
    assert [machine.epoch() for _ in range(4)] == [8, 4, 4, 4]


def test_never_more_than_the_most_and_one_alone_tries_nothing():
    machine = Machine({1: 100}, most=1)
    assert machine.epoch() == 1
    assert machine.used == [1]


def test_an_epoch_that_ends_while_trying_goes_on_with_what_it_had():
    machine = Machine({2: 2000, 1: 300}, most=2)
    machine.epoch(updates=1)
    assert machine.threads.chosen == 2


def test_an_update_that_fails_says_why_and_not_how_long_it_took():
    threads = Threads(2, lambda _: None)
    threads.begin_epoch()
    with pytest.raises(ValueError, match="loss"), threads.for_update():
        raise ValueError("loss")
