"""What every Linux machine tells: thermal zones, the sensors of x86 processors, processor clocks and throttle counters.

Temperatures are in thousandths of a degree (Documentation/ABI/testing/sysfs-class-thermal and sysfs-class-hwmon of the
Linux kernel).
"""

from __future__ import annotations

from pathlib import Path

from enginewright_runtime.host import conditions
from enginewright_runtime.sysfs import read_number, read_text
from enginewright_runtime.telemetry.reading import Reading, free_name

# A zone whose part is switched off (a GPU that rests, on a Jetson) refuses to be read, or reads as -256 degrees.
_LOWEST_MILLIDEGREES = -100_000
_PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class LinuxSensors:
    """The sensors that are there when it is made. `root` is where /proc and /sys are looked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._zones = _zones(root)
        self._chips = _processor_chips(root)

    def read(self) -> Reading:
        """Read them all."""
        temperatures = {name: celsius for name, path in self._zones.items() if (celsius := _celsius(path)) is not None}
        for name, paths in self._chips.items():
            found = [celsius for path in paths if (celsius := _celsius(path)) is not None]
            if found:
                temperatures[free_name(name, temperatures)] = max(found)
        now = conditions(root=self._root)
        clock, throttles = now["frequency_mhz"], now["thermal_throttles"]
        return Reading(
            temperatures_c=temperatures,
            clocks_mhz={"cpu": clock} if isinstance(clock, float) else {},
            throttles={
                **({"cpu heat": throttles} if isinstance(throttles, int) else {}),
                **_over_current(self._root),
            },
        )


def _zones(root: Path) -> dict[str, Path]:
    """The files of the thermal zones by their types, in the order of their numbers."""
    found: dict[str, Path] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*"), key=lambda path: (len(path.name), path.name)):
        if kind := read_text(zone / "type"):
            found[free_name(kind, found)] = zone / "temp"
    return found


def _processor_chips(root: Path) -> dict[str, list[Path]]:
    """The inputs of each chip that measures a processor, by the chip's name: of one chip the hottest counts."""
    found: dict[str, list[Path]] = {}
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        name = read_text(chip / "name")
        if name in _PROCESSOR_CHIPS:
            found[free_name(name, found)] = sorted(chip.glob("temp*_input"))
    return found


def over_current_counters(root: Path) -> list[Path]:
    """The files that count how often a Jetson has throttled because a rail drew too much: oc1_event_cnt and so on."""
    return sorted(root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt"))


def _over_current(root: Path) -> dict[str, int]:
    return {
        path.name.removesuffix("_event_cnt"): count
        for path in over_current_counters(root)
        if (count := read_number(path)) is not None
    }


def _celsius(path: Path) -> float | None:
    millidegrees = read_number(path)
    return None if millidegrees is None or millidegrees < _LOWEST_MILLIDEGREES else millidegrees / 1000
