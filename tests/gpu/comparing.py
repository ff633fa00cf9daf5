"""What is said of two engines' times, of memory, and of what calls leave behind."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enginewright_runtime.backends import Array
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.stats import percentile, student_t_quantile
from enginewright_runtime.sysfs import read_resident_bytes
from enginewright_runtime.tensorrt.cuda import open_cuda

__all__ = [
    "Growth",
    "Ratio",
    "call_times",
    "growth_over",
    "memory_taken",
    "percentile_us",
    "ratio_of",
]

CONFIDENCE = 0.99
TOLERATED = 0.01  # a share: two equal engines are not told apart beyond it
_LEAST_ERROR = 5e-4


@dataclass(frozen=True)
class Ratio:
    """How many times as long the one takes as the other, with the bounds at CONFIDENCE on either side."""

    low: float
    middle: float
    high: float

    @property
    def slower(self) -> bool:
        """It looks slower; noise alone may do that."""
        return self.middle > 1.0

    @property
    def surely_slower(self) -> bool:
        """Slower beyond the noise, by more than a hundredth."""
        return self.low > 1.0 + TOLERATED

    def __str__(self) -> str:
        return f"{self.middle:.3f} times ({self.low:.3f} to {self.high:.3f})"


def ratio_of(measurement: Measurement, one: str, other: str) -> Ratio:
    """From one interleaved measurement: in each session the median over the rounds of the log ratio of the mean times, and
    over the sessions their mean with Student's bounds.
    """
    rounds, chunk = measurement.protocol.rounds, measurement.protocol.chunk
    centres = []
    for session in measurement.sessions:
        ours, theirs = (
            np.log(np.asarray(session.samples_ns[label], np.float64).reshape(rounds, chunk).mean(1))
            for label in (one, other)
        )
        centres.append(float(np.median(ours - theirs)))
    middle, count = float(np.mean(centres)), len(centres)
    if count < 2:
        return Ratio(0.0, math.exp(middle), math.inf)
    error = max(float(np.std(centres, ddof=1)), _LEAST_ERROR) / math.sqrt(count)
    reach = student_t_quantile(CONFIDENCE, count - 1) * error
    return Ratio(math.exp(middle - reach), math.exp(middle), math.exp(middle + reach))


def percentile_us(samples_ns: Sequence[int], percent: float) -> str:
    """In microseconds; "-" where so few samples cannot carry it."""
    try:
        return f"{percentile(samples_ns, percent) / 1e3:.1f}"
    except NotEnoughSamples:
        return "-"


@dataclass(frozen=True)
class Growth:
    """What many calls left behind, in bytes: in this process, and on the GPU."""

    host: int
    gpu: int


def growth_over(call: Callable[[], object], count: int) -> Growth:
    """After a tenth of the calls to settle. On the GPU other processes' memory counts, too: none may come or go."""
    cuda = open_cuda()
    try:
        for _ in range(max(1, count // 10)):
            call()
        resident, free = _resident_bytes(), cuda.free_bytes()
        for _ in range(count):
            call()
        return Growth(_resident_bytes() - resident, free - cuda.free_bytes())
    finally:
        cuda.free()


def memory_taken(open_engine: Callable[[], Any], inputs: Mapping[str, Array]) -> tuple[int, int]:
    """What an open engine takes on the GPU, and in this process, in bytes.

    It is opened twice, and the second time counts: what the first one loads of kernels and libraries stays loaded.
    """
    cuda = open_cuda()
    try:
        taken = (0, 0)
        for _ in range(2):
            free, resident = cuda.free_bytes(), _resident_bytes()
            with open_engine() as engine:
                engine.run(inputs)
                taken = (free - cuda.free_bytes(), _resident_bytes() - resident)
        return taken
    finally:
        cuda.free()


def call_times(
    engine: Any, inputs: Mapping[str, Array], outputs: Mapping[str, Array], count: int
) -> tuple[list[int], list[int]]:
    """Of `count` calls of run_into, in nanoseconds: each as a whole, and the part of it that is not waiting for the GPU.

    The wait is that of the stream's synchronisation, timed inside the call; the rest is Python, the copies in and out of
    page-locked memory, and the driver's functions that enqueue.
    """
    cuda, waited = engine._cuda, 0
    wait = cuda.wait

    def timed_wait(stream: int) -> None:
        nonlocal waited
        started = time.perf_counter_ns()
        wait(stream)
        waited = time.perf_counter_ns() - started

    cuda.wait = timed_wait
    try:
        whole, rest = [], []
        for _ in range(count):
            started = time.perf_counter_ns()
            engine.run_into(inputs, outputs)
            taken = time.perf_counter_ns() - started
            whole.append(taken)
            rest.append(taken - waited)
        return whole, rest
    finally:
        del cuda.wait


def _resident_bytes() -> int:
    return read_resident_bytes(os.getpid()) or 0
