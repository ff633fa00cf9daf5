"""Timing an engine on the GPU as NVIDIA's trtexec does, with every flag that matters recorded beside the figures.

Warm-up of 200 ms, then 3 seconds and 10 iterations at the least; the times are those between CUDA events around the
copies and the computation. One query is in flight at a time, as with trtexec --exposeDMA --noDataTransfers=0: the times
of a query are its own. These are raw samples of one process, to compare with trtexec's; budgets are judged by the wall
clock, over fresh processes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from enginewright_runtime.backends.protocol import Array
from enginewright_runtime.canonical import Json
from enginewright_runtime.tensorrt.engine import TensorRTEngine

__all__ = ["GpuTimes", "time_on_gpu", "trtexec_percentile"]

FORMAT = 1  # of the JSON form. 1: the first.

_WARM_UP_NS, _LEAST_NS, _LEAST_ITERATIONS = 200_000_000, 3_000_000_000, 10
_ENQUEUE_BOUND = 0.8  # of the computation: beyond it, the processor cannot feed the GPU
_UNSTABLE = 0.025  # coefficient of variation of the computation


@dataclass(frozen=True)
class GpuTimes:
    """Samples in nanoseconds, in the order in which they were taken: copies in, computation, copies out, and the time that
    the processor took to enqueue the computation.
    """

    in_ns: tuple[int, ...]
    compute_ns: tuple[int, ...]
    out_ns: tuple[int, ...]
    enqueue_ns: tuple[int, ...]
    transfers: bool
    cuda_graph: bool = False

    def warnings(self) -> tuple[str, ...]:
        """What trtexec would warn of."""
        found = []
        compute = statistics.median(self.compute_ns)
        if not self.cuda_graph and statistics.median(self.enqueue_ns) > _ENQUEUE_BOUND * compute:
            found.append("enqueueing takes as long as computing: capture a CUDA graph (cuda_graph: true in the target)")
        middle, spread = statistics.fmean(self.compute_ns), statistics.pstdev(self.compute_ns)
        if spread > _UNSTABLE * middle:
            found.append(f"the GPU's times vary by {spread / middle:.1%}: lock its clocks, or set a power mode")
        return tuple(found)

    def to_json(self) -> dict[str, Json]:
        """The samples, the flags and trtexec's percentiles as a JSON object."""
        return {
            "format": FORMAT,
            "flags": {
                "warm_up_ms": _WARM_UP_NS // 1_000_000,
                "least_seconds": _LEAST_NS // 1_000_000_000,
                "least_iterations": _LEAST_ITERATIONS,
                "cuda_graph": self.cuda_graph,
                "spin_wait": False,
                "transfers": self.transfers,
                "queries_in_flight": 1,
            },
            "compute_percentiles_ns": {
                f"p{percent}": trtexec_percentile(self.compute_ns, percent) for percent in (50, 90, 95, 99)
            },
            "in_ns": list(self.in_ns),
            "compute_ns": list(self.compute_ns),
            "out_ns": list(self.out_ns),
            "enqueue_ns": list(self.enqueue_ns),
        }


def time_on_gpu(
    engine: TensorRTEngine,
    inputs: Mapping[str, Array],
    *,
    warm_up_ns: int = _WARM_UP_NS,
    least_ns: int = _LEAST_NS,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> GpuTimes:
    """Take samples until both the time and the number of iterations are reached."""
    until = clock() + warm_up_ns
    while clock() < until:
        engine.time_once(inputs)
    samples: list[tuple[int, int, int, int]] = []
    until = clock() + least_ns
    while clock() < until or len(samples) < _LEAST_ITERATIONS:
        samples.append(engine.time_once(inputs))
    entered, computed, left, enqueued = (tuple(column) for column in zip(*samples, strict=True))
    return GpuTimes(entered, computed, left, enqueued, transfers=engine.transfers, cuda_graph=engine.captures)


def trtexec_percentile(samples: Sequence[int], percent: float) -> int:
    """The sample that trtexec calls this percentile.

    >>> trtexec_percentile([40, 10, 30, 20], 50)
    20
    """
    ordered = sorted(samples)
    # In single precision, as trtexec computes it: the 99th percentile of a hundred samples is thereby the largest.
    beyond = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(len(ordered)))
    return ordered[max(len(ordered) - 1 - beyond, 0)]
