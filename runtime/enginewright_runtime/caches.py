"""Whether an inference finds its engine in the processor's caches: warm, or evicted before it.

Warm: an inference follows the one before it, and finds what that left. Evicted: before each timed inference its process
writes through a buffer, so that the caches hold the buffer in place of the engine, as they hold the data of other
processes where an engine runs 30 times a second beside them. The two give different figures, which never mix.

The buffer takes the place of data, of code beyond the first-level instruction cache, and of address translations. The
first-level instruction cache and the branch predictors stay as they are, and so do the private caches of other cores,
where an engine of several threads finds what it left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

Caches: TypeAlias = Literal["warm", "evicted"]

_ROOT = Path("/")

# The bounds are there because a virtual machine may report another cache than its processor has, a chip may have a
# system-level cache that is not reported, and a server reports one that others use too. Seen on a two-core virtual
# machine that reports 480 MiB: of what 512 MiB slowed four engines of 0.1 to 4 MiB down, 64 MiB did 56 to 84 %, and
# 256 MiB 84 to 97 % in half the time.
_LEAST_BYTES = 64 << 20
_MOST_BYTES = 256 << 20


def bytes_to_evict(*, root: Path = _ROOT) -> int:
    """How much to write: twice the largest cache that the system reports, between 64 and 256 MiB.

    Twice, because the line that a cache gives up is not always its oldest. `root` is where /sys is looked for.
    """
    sizes = [path.read_text() for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*/size")]
    reported = [int(found[1]) << 10 for size in sizes if (found := re.match(r"(\d+)K", size))]
    return min(max(2 * max(reported, default=0), _LEAST_BYTES), _MOST_BYTES)


class Evictor:
    """Writes through a buffer of `size_bytes`, all of whose pages are resident from the start."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._buffer = np.ones(size_bytes // 8, np.uint64)

    def evict(self) -> None:
        """Read and write every line of the buffer.

        It is not filled anew, because stores of that many bytes may go past the caches to the memory.
        """
        np.add(self._buffer, 1, out=self._buffer)
