"""What a Jetson tells besides: the power of its rails, the clock of its GPU, and its power mode.

The rails are measured by INA3221 chips (Documentation/hwmon/ina3221 of the Linux kernel: millivolts and milliamperes).
The GPU's devfreq device is called 17000000.gv11b on Xavier, 17000000.ga10b on Orin up to JetPack 5, 17000000.gpu on
JetPack 6, and gpu-gpc-0 on Thor. Power modes are told by name: their numbers differ from board to board.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginewright_runtime.canonical import Json
from enginewright_runtime.gpu_state import GpuState
from enginewright_runtime.sysfs import read_number, read_text
from enginewright_runtime.telemetry.linux import over_current_counters
from enginewright_runtime.telemetry.reading import Reading, free_name

_GPU = re.compile(r"[0-9a-f]+\.(gpu|gv11b|ga10b|gp10b)|gpu-gpc-[0-9]+")
_UNCONNECTED = ("NC", "sum of shunt voltages")
_MODE_LIMIT_S = 5.0
MODES_FILE = Path("etc/nvpmodel.conf")  # a link to the file of this very board
_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", flags=re.MULTILINE)

Runs = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class _Rail:
    voltage: Path
    current: Path

    def watts(self) -> float | None:
        millivolts, milliamperes = read_number(self.voltage), read_number(self.current)
        return None if millivolts is None or milliamperes is None else round(millivolts * milliamperes / 1e6, 4)


class JetsonSensors:
    """The rails and the GPU's clock that are there when it is made; on other machines there are none."""

    def __init__(self, root: Path) -> None:
        self._rails = _rails(root)
        self._clocks = _gpu_clocks(root)

    def read(self) -> Reading:
        """Read them all."""
        clocks = {name: hertz / 1e6 for name, path in self._clocks.items() if (hertz := read_number(path)) is not None}
        power = {name: watts for name, rail in self._rails.items() if (watts := rail.watts()) is not None}
        return Reading(clocks_mhz=clocks, power_w=power)


class JetsonGpu:
    """The GPU of a Jetson: the first of its clocks, and the counters of its rails. Other machines tell nothing here."""

    def __init__(self, root: Path) -> None:
        folders = _gpu_folders(root)
        self._clock = folders[0] if folders else root / "no-such-clock"
        self._counters = over_current_counters(root)

    def read(self) -> GpuState:
        """Its state now."""
        counts = [count for path in self._counters if (count := read_number(path)) is not None]
        return GpuState(
            clock_khz=_khz(self._clock / "cur_freq"),
            clock_limit_khz=_khz(self._clock / "max_freq"),
            throttles=sum(counts) if counts else None,
        )

    def settings(self) -> dict[str, Json]:
        """The power mode, and whether the clock is held where it is, as jetson_clocks does."""
        least, most = read_number(self._clock / "min_freq"), read_number(self._clock / "max_freq")
        return {"power_mode": power_mode(), "clock_held": None if least is None or most is None else least == most}


def power_mode(run: Runs | None = None) -> str | None:
    """The power mode's name, as `nvpmodel -q` tells it; null where there is no nvpmodel, or it does not say.

    `run` runs a command and returns its standard output, or raises OSError or SubprocessError.
    """
    try:
        said = (run or _run)(["nvpmodel", "-q"])
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"^NV Power Mode:\s*(\S.*?)\s*$", said, flags=re.MULTILINE)
    return found[1] if found else None


def power_modes(root: Path = Path("/")) -> dict[str, int]:
    """The numbers of this board's power modes, by name, as nvpmodel's own file has them; none where it cannot be read."""
    return {name: int(number) for number, name in _MODE.findall(read_text(root / MODES_FILE) or "")}


def _rails(root: Path) -> dict[str, _Rail]:
    found: dict[str, _Rail] = {}
    for label in sorted(root.glob("sys/bus/i2c/devices/*/hwmon/hwmon*/in*_label")):
        channel = re.fullmatch(r"in(\d+)_label", label.name)
        name = read_text(label)
        if channel is None or not name or name in _UNCONNECTED:
            continue
        rail = _Rail(label.with_name(f"in{channel[1]}_input"), label.with_name(f"curr{channel[1]}_input"))
        if rail.watts() is not None:
            found[free_name(name, found)] = rail
    return found


def _gpu_clocks(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for device in _gpu_folders(root):
        found[free_name("gpu", found)] = device / "cur_freq"
    return found


def _gpu_folders(root: Path) -> list[Path]:
    return [device for device in sorted(root.glob("sys/class/devfreq/*")) if _GPU.fullmatch(device.name)]


def _khz(path: Path) -> int | None:
    hertz = read_number(path)
    return None if hertz is None else hertz // 1000


def _run(command: Sequence[str]) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=True, timeout=_MODE_LIMIT_S
    ).stdout
