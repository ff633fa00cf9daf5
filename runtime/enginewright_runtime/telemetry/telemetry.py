"""All sensors of this machine behind one call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from enginewright_runtime.canonical import Json
from enginewright_runtime.telemetry.jetson import JetsonSensors, Runs, power_mode
from enginewright_runtime.telemetry.linux import LinuxSensors
from enginewright_runtime.telemetry.nvml import NvmlMissing, NvmlSensors
from enginewright_runtime.telemetry.reading import Reading, merged


class _Sensors(Protocol):
    def read(self) -> Reading:
        """Read them all."""


class Telemetry:
    """The sensors that are there when it is made.

    `power_mode` is a Jetson's, by name. `absent` says in sentences what this machine does not tell. `root` is where
    /proc and /sys are looked for, `load_library` opens a shared library by name, and `run` a command; all three are
    for tests.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        load_library: Callable[[str], Any] = ctypes.CDLL,
        run: Runs | None = None,
    ) -> None:
        self._sources: list[_Sensors] = [LinuxSensors(root), JetsonSensors(root)]
        self.power_mode = power_mode(run)
        self.absent: list[str] = []
        try:
            self._sources.append(NvmlSensors(load_library))
        except NvmlMissing as error:
            self.absent.append(str(error))
        first = self.read()
        absent = {
            "no temperature can be read": first.temperatures_c,
            "no clock can be read": first.clocks_mhz,
            "no power can be read": first.power_w,
            "nothing counts how often the clocks were throttled": first.throttles,
        }
        self.absent += [sentence for sentence, figures in absent.items() if not figures]

    def read(self) -> Reading:
        """Read all sensors; those that do not answer now are left out."""
        return merged(source.read() for source in self._sources)

    def to_json(self) -> dict[str, Json]:
        """What is known of the machine as a whole."""
        return {"power_mode": self.power_mode, "absent": list(self.absent)}


def reading_line(reading: Reading) -> str:
    """A reading for people, as "hottest 61.5 C (gpu-thermal), gpu 1300 MHz, VDD_IN 21.4 W"; empty where nothing is told.

    >>> reading_line(Reading(temperatures_c={"cpu": 50.0, "gpu": 61.5}, clocks_mhz={"gpu": 1300.5}))
    'hottest 61.5 C (gpu), gpu 1300 MHz'
    """
    parts = []
    if reading.temperatures_c:
        name = max(reading.temperatures_c, key=lambda sensor: reading.temperatures_c[sensor])
        parts.append(f"hottest {reading.temperatures_c[name]:g} C ({name})")
    parts += [f"{name} {mhz:.0f} MHz" for name, mhz in reading.clocks_mhz.items()]
    parts += [f"{name} {watts:.3g} W" for name, watts in reading.power_w.items()]
    if reading.held_back_by:
        parts.append(f"held back by {', '.join(reading.held_back_by)}")
    return ", ".join(parts)
