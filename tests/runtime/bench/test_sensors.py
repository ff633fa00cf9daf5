"""The sensors beside a verdict: what they read, and that clocks were throttled while it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.runtime.telemetry.device_trees import device_tree

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.sensors import Sensors
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.telemetry import Telemetry


def refuse(name: str) -> Any:
    raise OSError(name)


def test_throttling_during_a_measurement_stands_before_its_verdict(tmp_path: Path) -> None:
    root = device_tree("orin-jetpack5", tmp_path)
    sensors = Sensors(Telemetry(root=root, load_library=refuse, run=lambda command: "NV Power Mode: MAXN\n0\n"))
    (root / "sys/class/hwmon/hwmon2/oc3_event_cnt").write_text("9\n")
    answer = sensors.told_in(Answer(ExitCode.OK, {"verdict": "PASS"}, ["figures", "verdict: PASS"]))
    assert list(answer.lines) == [
        "figures",
        "  sensors at the end: hottest 48.968 C (CPU-therm), cpu 1466 MHz, gpu 306 MHz, VDD_GPU_SOC 3.21 W, "
        "VDD_CPU_CV 0.764 W",
        "  the clocks were throttled meanwhile: oc3 5 times",
        "  power mode MAXN",
        "verdict: PASS",
    ]
    telemetry: Any = answer.json["telemetry"]
    assert (telemetry["before"]["throttles"]["oc3"], telemetry["after"]["throttles"]["oc3"]) == (4, 9)


def test_a_machine_that_tells_nothing_adds_no_line(tmp_path: Path) -> None:
    sensors = Sensors(Telemetry(root=tmp_path, load_library=refuse, run=lambda command: ""))
    assert list(sensors.told_in(Answer(ExitCode.OK, {}, ["verdict: PASS"])).lines) == ["verdict: PASS"]


def test_another_power_mode_than_that_of_the_budgets_is_told(tmp_path: Path) -> None:
    def last_lines(meant: str | None) -> list[str]:
        telemetry = Telemetry(root=tmp_path, load_library=refuse, run=lambda command: "NV Power Mode: MODE_30W\n2\n")
        return list(Sensors(telemetry, meant=meant).told_in(Answer(ExitCode.OK, {}, ["verdict: PASS"])).lines)

    assert last_lines("MAXN")[0] == "  power mode MODE_30W: another than MAXN, which the budgets are of"
    assert last_lines("MODE_30W")[0] == last_lines(None)[0] == "  power mode MODE_30W"
