"""How many threads train: where something else uses the processor, fewer are often faster.

The threads of an operation wait for each other at its end. While another process has one of the cores, each wait lasts
as long as that process may run: an update of hundreds of operations then takes ten times as long with two threads as
with one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Threads"]

_TRIES = 2


class Threads:
    """The number of threads for the updates of an epoch, by their measured time.

    An epoch's first updates are done in turn with as many threads as before, half of them, and twice as many; the rest
    with the fastest. Everything is a real update, so nothing is lost but some speed in these.

    `most`: never more than these. `set_threads` is told the number before an update.
    """

    def __init__(
        self, most: int, set_threads: Callable[[int], None], *, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._most, self._set, self._clock_ns = most, set_threads, clock_ns
        self.chosen = most
        self._left: list[int] = []
        self._taken_ns: dict[int, int] = {}

    def begin_epoch(self) -> None:
        """Try anew: whether the processor is shared may have changed."""
        near = {self.chosen, max(1, self.chosen // 2), min(self._most, 2 * self.chosen)}
        self._left = sorted(near, reverse=True) * _TRIES if len(near) > 1 else []
        self._taken_ns = {}

    @contextmanager
    def for_update(self) -> Iterator[None]:
        """Around each update."""
        if not self._left:
            yield
            return
        threads = self._left.pop(0)
        self._set(threads)
        begin_ns = self._clock_ns()
        yield
        taken_ns = self._clock_ns() - begin_ns
        self._taken_ns[threads] = min(taken_ns, self._taken_ns.get(threads, taken_ns))
        if not self._left:
            self.chosen = min(self._taken_ns, key=lambda threads: (self._taken_ns[threads], threads))
            self._set(self.chosen)
