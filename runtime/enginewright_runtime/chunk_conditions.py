"""What disturbed a machine during one chunk of a measurement, read in a fraction of a millisecond from /proc and /sys.

Null is unknown: many of these files are missing in a container or a virtual machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from enginewright_runtime.gpu_state import GpuState, WatchedGpu
from enginewright_runtime.sysfs import read_number, read_text

Reading: TypeAlias = "Mapping[str, int | str | None]"
Columns: TypeAlias = "Mapping[str, tuple[int | str | None, ...]]"

STATES = ("clock_khz", "clock_limit_khz", "governor", "temperature_millidegrees")
GROWTHS = ("thermal_throttles", "quota_throttled_us", "pressure_stalled_us", "steal_ticks")
GPU = ("gpu_clock_khz", "gpu_clock_limit_khz", "gpu_held_back_by", "gpu_throttles")  # of engines that run on one

_ROOT = Path("/")
_PROCESSOR_FIELD = 36  # of /proc/PID/stat, counted from behind the command's name: the core that ran it last


class ConditionsProbe:
    """Reads the conditions after each chunk, those of `gpu` too where there is one. It looks for its files once. `root`
    is where /proc and /sys are.
    """

    def __init__(self, *, root: Path = _ROOT, gpu: WatchedGpu | None = None) -> None:
        self._root = root
        self._gpu = gpu
        self._gpu_state = GpuState()
        cpus = root / "sys/devices/system/cpu"
        self._limit = cpus / "cpu0/cpufreq/scaling_max_freq"
        self._governor = cpus / "cpu0/cpufreq/scaling_governor"
        self._throttles = sorted(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
        self._zones = sorted(root.glob("sys/class/thermal/thermal_zone[0-9]*/temp"))
        self._counters: dict[str, int | None] = dict.fromkeys(GROWTHS)

    def begin(self) -> None:
        """Take the counters' values as those from which the first chunk counts."""
        self._counters = self._read_counters()
        self._gpu_state = self._gpu.read() if self._gpu else GpuState()

    def read(self, pid: int) -> Reading:
        """The states now, of the core that the process `pid` ran on, and how far the counters grew since the last call."""
        before, self._counters = self._counters, self._read_counters()
        temperatures = [value for path in self._zones if (value := read_number(path)) is not None]
        return {
            "clock_khz": self._clock_khz(pid),
            "clock_limit_khz": read_number(self._limit),
            "governor": read_text(self._governor),
            "temperature_millidegrees": max(temperatures, default=None),
            **{name: _growth(before[name], self._counters[name]) for name in GROWTHS},
            **(self._read_gpu(self._gpu) if self._gpu else {}),
        }

    def _read_gpu(self, gpu: WatchedGpu) -> Reading:
        """A GPU that counts no throttles says whether it is throttled now: that is one of them."""
        before, self._gpu_state = self._gpu_state, gpu.read()
        now = self._gpu_state
        throttles = _growth(before.throttles, now.throttles)
        if now.throttled_now is not None:
            throttles = int(now.throttled_now)
        return dict(zip(GPU, (now.clock_khz, now.clock_limit_khz, now.held_back_by, throttles), strict=True))

    def _clock_khz(self, pid: int) -> int | None:
        fields = (read_text(self._root / f"proc/{pid}/stat") or "").rpartition(")")[2].split()
        if len(fields) <= _PROCESSOR_FIELD:
            return None
        core = fields[_PROCESSOR_FIELD]
        return read_number(self._root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")

    def _read_counters(self) -> dict[str, int | None]:
        throttles = [value for path in self._throttles if (value := read_number(path)) is not None]
        return {
            "thermal_throttles": sum(throttles) if throttles else None,
            "quota_throttled_us": _found(self._root / "sys/fs/cgroup/cpu.stat", r"^throttled_usec (\d+)$"),
            "pressure_stalled_us": _found(self._root / "proc/pressure/cpu", r"^some .*\btotal=(\d+)$"),
            "steal_ticks": _found(self._root / "proc/stat", r"^cpu +(?:\d+ +){7}(\d+)"),
        }


def columns(readings: Sequence[Reading]) -> Columns:
    """The readings by name, which takes a third of the room."""
    names = readings[0] if readings else ()
    return {name: tuple(reading[name] for reading in readings) for name in names}


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _found(path: Path, pattern: str) -> int | None:
    found = re.search(pattern, read_text(path) or "", flags=re.MULTILINE)
    return int(found[1]) if found else None
