"""The machine's conditions after each chunk, from a recorded tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginewright_runtime.canonical import Json
from enginewright_runtime.chunk_conditions import Columns, ConditionsProbe, columns
from enginewright_runtime.gpu_state import GpuState

CPU = "sys/devices/system/cpu"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files of a machine with two cores; process 41 ran on the second."""
    fields = " ".join(["S", *("0" for _ in range(35)), "1", "0"])
    for name, text in {
        f"{CPU}/cpu0/cpufreq/scaling_max_freq": "2000000\n",
        f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n",
        f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "800000\n",
        f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "1900000\n",
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "4\n",
        f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "1\n",
        "sys/class/thermal/thermal_zone0/temp": "51000\n",
        "sys/class/thermal/thermal_zone1/temp": "-1000\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 7\nthrottled_usec 100\n",
        "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=500\n",
        "proc/stat": "cpu  1 2 3 4 5 6 7 30 0 0\n",
        "proc/41/stat": f"41 (a ) name) {fields}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_states_are_those_now_and_counters_are_what_they_grew_by(tree: Path) -> None:
    probe = ConditionsProbe(root=tree)
    probe.begin()
    (tree / f"{CPU}/cpu1/thermal_throttle/core_throttle_count").write_text("3\n")
    (tree / "sys/fs/cgroup/cpu.stat").write_text("throttled_usec 900\n")
    (tree / "proc/stat").write_text("cpu  1 2 3 4 5 6 7 31 0 0\n")
    assert probe.read(41) == {
        "clock_khz": 1_900_000,
        "clock_limit_khz": 2_000_000,
        "governor": "performance",
        "temperature_millidegrees": 51_000,
        "thermal_throttles": 2,
        "quota_throttled_us": 800,
        "pressure_stalled_us": 0,
        "steal_ticks": 1,
    }
    again = probe.read(41)
    assert (again["thermal_throttles"], again["quota_throttled_us"], again["steal_ticks"]) == (0, 0, 0)


def test_what_a_machine_does_not_tell_is_null(tmp_path: Path) -> None:
    probe = ConditionsProbe(root=tmp_path)
    probe.begin()
    assert set(probe.read(41).values()) == {None}


class Gpu:
    """A GPU that is in one state after another."""

    def __init__(self, *states: GpuState) -> None:
        self._states = iter(states)

    def read(self) -> GpuState:
        return next(self._states)

    def settings(self) -> dict[str, Json]:
        return {}


def gpu_readings(tree: Path, *states: GpuState) -> Columns:
    probe = ConditionsProbe(root=tree, gpu=Gpu(*states))
    probe.begin()
    return columns([probe.read(41) for _ in states[1:]])


def test_a_gpu_that_counts_its_throttles_tells_those_of_each_chunk(tree: Path) -> None:
    states = [GpuState(clock_khz=1_300_500, clock_limit_khz=1_300_500, throttles=count) for count in (4, 4, 6)]
    kept = gpu_readings(tree, *states)
    assert kept["gpu_throttles"] == (0, 2)
    assert kept["gpu_clock_khz"] == kept["gpu_clock_limit_khz"] == (1_300_500, 1_300_500)
    assert kept["gpu_held_back_by"] == (None, None)
    assert kept["governor"] == ("performance", "performance")


def test_of_a_gpu_that_tells_only_whether_it_is_throttled_that_counts(tree: Path) -> None:
    free, hot = (GpuState(held_back_by=why, throttled_now=why != "nothing") for why in ("nothing", "heat"))
    assert gpu_readings(tree, hot, free, hot)["gpu_throttles"] == (0, 1)


def test_an_engine_of_the_processor_has_no_conditions_of_a_gpu(tree: Path) -> None:
    probe = ConditionsProbe(root=tree)
    probe.begin()
    assert not [name for name in columns([probe.read(41)]) if name.startswith("gpu")]


def test_readings_are_kept_by_name(tree: Path) -> None:
    probe = ConditionsProbe(root=tree)
    probe.begin()
    kept = columns([probe.read(41), probe.read(42)])
    assert kept["clock_khz"] == (1_900_000, None)
    assert kept["governor"] == ("performance", "performance")
