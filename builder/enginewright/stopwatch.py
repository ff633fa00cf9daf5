"""Timing engines side by side in this process: for choices that a step makes, not for what a report shows.

`enginewright_runtime.measure` is how a latency is measured; this is its quick sister for steps that compare dozens of
variants: the engines take turns in random order and in short chunks, the first inference after a turn is dropped, and
only medians of the same run are compared.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TypeVar

from enginewright_runtime.backends import Array, backend
from enginewright_runtime.canonical import Json
from enginewright_runtime.stats import median_interval

__all__ = ["Saving", "saving", "time_side_by_side"]

Label = TypeVar("Label", bound=str)

_WARM_UP_ROUNDS = 5


@dataclass(frozen=True)
class Saving:
    """How much time one variant takes less than another, in nanoseconds: the median of paired differences and its
    interval at 99 %. Negative: it takes more.
    """

    median_ns: float
    low_ns: float
    high_ns: float

    def to_json(self) -> Json:
        return [round(self.low_ns), round(self.median_ns), round(self.high_ns)]


def saving(of: Sequence[int], over: Sequence[int]) -> Saving:
    """What `of` saves over `over`: samples in nanoseconds that were taken side by side, the same index at the same time.

    >>> saving([90, 95, 91, 92, 90, 93, 94, 90], [100, 104, 102, 103, 99, 103, 105, 100]).median_ns
    10.5
    """
    differences = sorted(theirs - ours for ours, theirs in zip(of, over, strict=True))
    low, median, high = median_interval(differences, confidence=0.99)
    return Saving(median, low, high)


def time_side_by_side(
    engines: Mapping[Label, tuple[bytes, Mapping[str, Json]]],
    inputs: Mapping[str, Array],
    *,
    backend_name: str,
    rounds: int = 30,
    chunk: int = 3,
    seed: int = 0,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[Label, list[int]]:
    """Nanoseconds of an inference of each engine in each of `rounds` rounds: the median of `chunk` of them. The same
    index is the same round, so differences may be taken.

    `engines`: label -> the compiled engine and the settings that it is opened with. `on_round` is told the rounds done
    and their number. Raises EngineError where one cannot be opened or run.
    """
    order = list(engines)
    generator = random.Random(seed)
    samples: dict[Label, list[int]] = {label: [] for label in order}
    with ExitStack() as stack:
        opened = {
            label: stack.enter_context(closing(backend(backend_name).open(*engine)))
            for label, engine in engines.items()
        }
        for number in range(-_WARM_UP_ROUNDS, rounds):
            if on_round is not None:
                on_round(max(number, 0), rounds)
            for label in generator.sample(order, len(order)):
                taken = _chunk(opened[label].run, inputs, chunk)
                if number >= 0:
                    samples[label].append(sorted(taken)[chunk // 2])
    return samples


def _chunk(run: Callable[[Mapping[str, Array]], object], inputs: Mapping[str, Array], count: int) -> list[int]:
    run(inputs)  # after a turn, an inference finds the other engines' data in the caches
    taken = []
    for _ in range(count):
        started = time.perf_counter_ns()
        run(inputs)
        taken.append(time.perf_counter_ns() - started)
    return taken
