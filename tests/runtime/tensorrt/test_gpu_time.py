"""Timing as trtexec does it: how many samples, which percentile, and what it warns of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from enginewright_runtime.tensorrt.gpu_time import GpuTimes, time_on_gpu, trtexec_percentile


class FakeEngine:
    transfers = True
    captures = True

    def __init__(self) -> None:
        self.runs = 0

    def time_once(self, inputs: Any) -> tuple[int, int, int, int]:
        self.runs += 1
        return (10, self.runs, 30, 5)


def ticking(step_ns: int) -> Iterator[int]:
    now = 0
    while True:
        yield now
        now += step_ns


def take(step_ns: int, **limits: int) -> tuple[FakeEngine, GpuTimes]:
    engine, clock = FakeEngine(), ticking(step_ns)
    taken = time_on_gpu(engine, {}, clock=lambda: next(clock), **limits)  # type: ignore[arg-type]
    return engine, taken


def test_what_ran_while_warming_up_is_not_among_the_samples() -> None:
    engine, taken = take(1, warm_up_ns=50, least_ns=100)
    assert len(taken.compute_ns) < engine.runs
    assert taken.compute_ns[0] == engine.runs - len(taken.compute_ns) + 1
    assert len(taken.compute_ns) >= 90


def test_a_slow_engine_gets_ten_iterations_all_the_same() -> None:
    _, taken = take(1_000, warm_up_ns=1, least_ns=1)
    assert len(taken.compute_ns) == 10


@pytest.mark.parametrize(("percent", "sample"), [(50, 50), (90, 90), (99, 100), (100, 100), (0, 1)])
def test_percentiles_are_trtexecs(percent: float, sample: int) -> None:
    assert trtexec_percentile(list(range(100, 0, -1)), percent) == sample


def times(compute: list[int], *, enqueue: int = 1) -> GpuTimes:
    count = len(compute)
    return GpuTimes((1,) * count, tuple(compute), (1,) * count, (enqueue,) * count, transfers=False)


def test_it_warns_of_enqueueing_and_of_clocks_that_are_not_stable() -> None:
    assert times([100] * 10).warnings() == ()
    assert "capture a CUDA graph" in times([100] * 10, enqueue=81).warnings()[0]
    assert "lock its clocks" in times([100, 110] * 5).warnings()[0]


def test_the_flags_stand_beside_the_figures() -> None:
    found = times([100] * 10).to_json()
    assert found["flags"] == {
        "warm_up_ms": 200,
        "least_seconds": 3,
        "least_iterations": 10,
        "cuda_graph": False,
        "spin_wait": False,
        "transfers": False,
        "queries_in_flight": 1,
    }
    assert found["compute_percentiles_ns"] == {"p50": 100, "p90": 100, "p95": 100, "p99": 100}


def test_what_is_captured_already_is_not_to_be_captured() -> None:
    bound = times([100] * 10, enqueue=90)
    assert bound.warnings() == (
        "enqueueing takes as long as computing: capture a CUDA graph (cuda_graph: true in the target)",
    )
    assert replace(bound, cuda_graph=True).warnings() == ()
    assert take(1_000, warm_up_ns=1, least_ns=1)[1].to_json()["flags"]["cuda_graph"] is True  # type: ignore[index, call-overload]


def test_times_below_what_the_clock_resolves_are_no_reason_to_fail() -> None:
    assert times([0, 0, 0], enqueue=0).warnings() == ()
