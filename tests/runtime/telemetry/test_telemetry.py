"""Temperatures, clocks and power as each kind of machine tells them, and that what is not told is said to be absent."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.telemetry.device_trees import device_tree
from tests.runtime.telemetry.fake_nvml import Nvml

from enginewright_runtime.gpu_state import GpuState
from enginewright_runtime.telemetry import Reading, Telemetry, jetson
from enginewright_runtime.telemetry.jetson import JetsonGpu, power_mode, power_modes
from enginewright_runtime.telemetry.nvml import LIBRARY, NvmlGpu, NvmlMissing, NvmlSensors
from enginewright_runtime.telemetry.telemetry import reading_line


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def no_command(command: Sequence[str]) -> str:
    raise FileNotFoundError(command[0])


def telemetry(name: str, root: Path) -> Telemetry:
    return Telemetry(root=device_tree(name, root), load_library=no_library, run=no_command)


def test_an_orin_on_jetpack_5_tells_its_zones_rails_gpu_clock_and_over_current_events(tmp_path: Path) -> None:
    found = telemetry("orin-jetpack5", tmp_path).read()
    assert found == Reading(
        temperatures_c={"CPU-therm": 48.968, "Tdiode_tegra": 41.75, "tj-therm": 48.968},
        clocks_mhz={"cpu": 1465.6, "gpu": 306.0},
        power_w={"VDD_GPU_SOC": 3.2081, "VDD_CPU_CV": 0.7638},
        throttles={"oc1": 0, "oc2": 0, "oc3": 4},
    )


def test_a_zone_that_is_switched_off_has_no_temperature_until_it_is_switched_on(tmp_path: Path) -> None:
    found = telemetry("orin-jetpack5", tmp_path)
    assert "GPU-therm" not in found.read().temperatures_c
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").write_text("55500\n")
    assert found.read().temperatures_c["GPU-therm"] == 55.5
    assert found.read().hottest_c == 55.5


def test_jetpack_6_calls_the_gpu_by_another_name(tmp_path: Path) -> None:
    found = telemetry("orin-jetpack6", tmp_path).read()
    assert found.clocks_mhz == {"gpu": 1300.5}
    assert found.power_w == {"VDD_GPU_SOC": 14.08}


def test_a_thor_s_graphics_clock_is_not_mixed_up_with_its_other_gpu_clocks(tmp_path: Path) -> None:
    found = telemetry("thor", tmp_path).read()
    assert found.clocks_mhz == {"gpu": 1575.0}
    assert found.power_w == {"VDD_GPU": 18.0}


def test_a_server_tells_the_hottest_core_of_each_processor_and_how_often_one_was_too_hot(tmp_path: Path) -> None:
    found = telemetry("xeon", tmp_path).read()
    assert found.temperatures_c == {"x86_pkg_temp": 55.0, "x86_pkg_temp 2": 53.0, "coretemp": 58.0, "coretemp 2": 53.0}
    assert found.clocks_mhz == {"cpu": 2100.0}
    assert found.throttles == {"cpu heat": 7}


def test_what_a_machine_does_not_tell_is_said(tmp_path: Path) -> None:
    nothing = Telemetry(root=tmp_path, load_library=no_library, run=no_command)
    assert nothing.read() == Reading()
    assert nothing.power_mode is None
    assert nothing.absent == [
        f"NVML is not here ({LIBRARY}: cannot open shared object file)",
        "no temperature can be read",
        "no clock can be read",
        "no power can be read",
        "nothing counts how often the clocks were throttled",
    ]
    assert reading_line(nothing.read()) == ""


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", "MAXN"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_30W_ALL\n3\n", "MODE_30W_ALL"),
        ("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13\n", None),
    ],
)
def test_a_power_mode_is_told_by_its_name(said: str, mode: str | None) -> None:
    assert power_mode(lambda command: said) == mode


@pytest.mark.parametrize("error", [FileNotFoundError("nvpmodel"), subprocess.TimeoutExpired("nvpmodel", 5)])
def test_where_nvpmodel_does_not_answer_there_is_no_power_mode(error: Exception) -> None:
    def fails(command: Sequence[str]) -> str:
        raise error

    assert power_mode(fails) is None


def test_the_numbers_of_the_power_modes_are_those_of_the_board_s_own_file(tmp_path: Path) -> None:
    assert power_modes(tmp_path) == {}
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nvpmodel.conf").write_text(
        "# < POWER_MODEL ID=9 NAME=an_example >\n"
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n"
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
        "< PM_CONFIG DEFAULT=1 >\n"
    )
    assert power_modes(tmp_path) == {"15W": 0, "MAXN_SUPER": 2}


def test_nvml_tells_each_gpu_that_this_process_may_use() -> None:
    assert NvmlSensors(Nvml()).read() == Reading(
        temperatures_c={"NVIDIA H100": 60.0, "NVIDIA H100 2": 61.0},
        clocks_mhz={
            "NVIDIA H100 sm": 1980.0,
            "NVIDIA H100 memory": 2619.0,
            "NVIDIA H100 2 sm": 1980.0,
            "NVIDIA H100 2 memory": 2619.0,
        },
        power_w={"NVIDIA H100": 123.456},
        held_back_by=("hardware thermal slowdown", "power cap"),
    )


def test_a_gpu_that_rests_is_not_held_back() -> None:
    assert NvmlSensors(Nvml(reasons=0x1)).read().held_back_by == ()


def test_nvml_without_a_driver_is_absent() -> None:
    with pytest.raises(NvmlMissing, match="NVML does not start \\(status 9\\)"):
        NvmlSensors(Nvml(status=9))


def test_one_gpu_is_found_by_its_address_whatever_its_number() -> None:
    gpu = NvmlGpu("0000:65:00.0", Nvml())
    assert gpu.read() == GpuState(
        clock_khz=1_980_000, held_back_by="power cap, hardware thermal slowdown", throttled_now=True
    )
    assert gpu.settings() == {"persistence_mode": True, "applications_clock_mhz": None}
    with pytest.raises(NvmlMissing, match=r"NVML does not know the GPU '0000:66:00\.0' \(status 6\)"):
        NvmlGpu("0000:66:00.0", Nvml())


@pytest.mark.parametrize(("reasons", "held_back_by"), [(0x1, "nothing"), (0x4, "power cap")])
def test_a_power_cap_is_a_limit_and_no_throttle(reasons: int, held_back_by: str) -> None:
    found = NvmlGpu("0000:65:00.0", Nvml(reasons=reasons)).read()
    assert (found.held_back_by, found.throttled_now) == (held_back_by, False)


def test_a_jetson_s_gpu_tells_its_clock_its_limit_and_what_its_rails_counted(tmp_path: Path) -> None:
    gpu = JetsonGpu(device_tree("orin-jetpack5", tmp_path))
    assert gpu.read() == GpuState(clock_khz=306_000, clock_limit_khz=1_300_500, throttles=4)
    (tmp_path / "sys/class/devfreq/17000000.ga10b/max_freq").unlink()
    assert gpu.read() == GpuState(clock_khz=306_000, throttles=4)


@pytest.mark.parametrize(("least", "held"), [("306000000", False), ("1300500000", True), ("", None)])
def test_jetson_clocks_is_seen_by_the_gpu_s_least_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: str, held: bool | None
) -> None:
    monkeypatch.setattr(jetson, "_run", lambda command: "NV Power Mode: MAXN\n0\n")
    folder = device_tree("orin-jetpack5", tmp_path) / "sys/class/devfreq/17000000.ga10b"
    (folder / "min_freq").write_text(f"{least}\n")
    assert JetsonGpu(tmp_path).settings() == {"power_mode": "MAXN", "clock_held": held}


def test_the_gpu_s_figures_stand_beside_the_machine_s(tmp_path: Path) -> None:
    both = Telemetry(root=device_tree("xeon", tmp_path), load_library=Nvml(), run=no_command)
    assert both.absent == []
    found = both.read()
    assert found.temperatures_c["coretemp"] == 58.0
    assert found.power_w == {"NVIDIA H100": 123.456}
    assert reading_line(found).startswith("hottest 61 C (NVIDIA H100 2), cpu 2100 MHz")


def test_a_counter_that_grew_between_two_readings_is_told(tmp_path: Path) -> None:
    found = telemetry("orin-jetpack5", tmp_path)
    before = found.read()
    (tmp_path / "sys/class/hwmon/hwmon2/oc1_event_cnt").write_text("2\n")
    assert found.read().throttled_since(before) == {"oc1": 2}


def test_this_machine_can_be_read() -> None:
    found = Telemetry()
    assert isinstance(found.read(), Reading)
    assert isinstance(found.to_json()["absent"], list)
