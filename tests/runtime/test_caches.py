"""How much is written to evict, that it is there to be written from the start, and that it evicts."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from enginewright_runtime.caches import Evictor, bytes_to_evict

MIB = 1 << 20


def resident_bytes() -> int:
    """How much memory this process has resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("reported", "mib"),
    [
        ([], 64),
        (["48K", "2048K", "16384K"], 64),
        (["48K", "512K", "49152K"], 96),
        (["64K", "2048K", "491520K"], 256),
        (["32K", "unknown"], 64),
    ],
)
def test_twice_the_largest_cache_is_written_within_bounds(tmp_path: Path, reported: list[str], mib: int) -> None:
    for index, size in enumerate(reported):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{index % 2}/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert bytes_to_evict(root=tmp_path) == mib * MIB


def test_the_buffer_is_resident_before_the_first_eviction() -> None:
    before = resident_bytes()
    evictor = Evictor(64 * MIB)
    made = resident_bytes()
    evictor.evict()
    assert made - before > 60 * MIB
    assert resident_bytes() - made < 4 * MIB


def test_data_is_read_more_slowly_once_it_was_evicted() -> None:
    evictor = Evictor(bytes_to_evict())
    data = np.ones(MIB // 8)

    def read_ns() -> int:
        begin = time.perf_counter_ns()
        data.sum()
        return time.perf_counter_ns() - begin

    warm, evicted = [], []
    for _ in range(30):
        evictor.evict()
        evicted.append(read_ns())
        warm.append(min(read_ns(), read_ns()))
    assert statistics.median(evicted) > 1.3 * statistics.median(warm)
