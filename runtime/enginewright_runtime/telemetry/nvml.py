"""What NVIDIA's management library tells of data-center GPUs, called through ctypes: no package is needed.

Names, numbers and units are those of nvml.h (NVML API Reference Guide): temperatures in degrees, clocks in MHz, power
in milliwatts. A figure that a GPU does not support is left out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from enginewright_runtime.telemetry.reading import Reading, free_name

LIBRARY = "libnvidia-ml.so.1"

_SUCCESS = 0
_TEMPERATURE_GPU = 0
_CLOCKS = {"sm": 1, "memory": 2}
_LONGEST_NAME = 96
# Bits of nvmlClocksEventReasons. The first, 0x1, is left out: a GPU that rests is not held back.
_REASONS = {
    0x2: "applications clock setting",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clock setting",
}


class NvmlMissing(Exception):
    """There is no NVML here, or it does not start; the message says which."""


class NvmlSensors:
    """All GPUs that the library lists. Raises NvmlMissing where there is none to ask.

    `load` opens a shared library by name, and raises OSError where it cannot.
    """

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        try:
            self._library = load(LIBRARY)
        except OSError as error:
            raise NvmlMissing(f"NVML is not here ({error})") from None
        if status := self._library.nvmlInit_v2():
            raise NvmlMissing(f"NVML does not start (status {status}): is the driver loaded?")
        self._gpus = self._handles()

    def read(self) -> Reading:
        """Read them all."""
        temperatures: dict[str, float] = {}
        clocks: dict[str, float] = {}
        power: dict[str, float] = {}
        reasons: set[str] = set()
        for name, gpu in self._gpus.items():
            if (celsius := self._number("nvmlDeviceGetTemperature", gpu, _TEMPERATURE_GPU)) is not None:
                temperatures[name] = float(celsius)
            for clock, kind in _CLOCKS.items():
                if (mhz := self._number("nvmlDeviceGetClockInfo", gpu, kind)) is not None:
                    clocks[f"{name} {clock}"] = float(mhz)
            if (milliwatts := self._number("nvmlDeviceGetPowerUsage", gpu)) is not None:
                power[name] = milliwatts / 1000
            reasons.update(self._reasons(gpu))
        return Reading(
            temperatures_c=temperatures, clocks_mhz=clocks, power_w=power, held_back_by=tuple(sorted(reasons))
        )

    def _handles(self) -> dict[str, ctypes.c_void_p]:
        count = ctypes.c_uint()
        if self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _SUCCESS:
            raise NvmlMissing("NVML does not say how many GPUs there are")
        found: dict[str, ctypes.c_void_p] = {}
        for index in range(count.value):
            handle = ctypes.c_void_p()
            # A GPU that this user or container may not use is none of ours.
            if self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == _SUCCESS:
                found[free_name(self._name(handle), found)] = handle
        if not found:
            raise NvmlMissing("NVML lists no GPU")
        return found

    def _name(self, gpu: ctypes.c_void_p) -> str:
        name = ctypes.create_string_buffer(_LONGEST_NAME)
        if self._library.nvmlDeviceGetName(gpu, name, ctypes.c_uint(_LONGEST_NAME)) != _SUCCESS:
            return "gpu"
        return name.value.decode("utf-8", errors="replace")

    def _reasons(self, gpu: ctypes.c_void_p) -> list[str]:
        # Its name until driver 535 is the second one.
        for function in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            bits = self._number(function, gpu, kind=ctypes.c_ulonglong)
            if bits is not None:
                return [reason for bit, reason in _REASONS.items() if bits & bit]
        return []

    def _number(
        self, function: str, gpu: ctypes.c_void_p, *which: int, kind: type[ctypes._SimpleCData[int]] = ctypes.c_uint
    ) -> int | None:
        """What `function` answers; null where the library or the GPU does not have it."""
        found = kind()
        called = getattr(self._library, function, None)
        if called is None:
            return None
        status = called(gpu, *(ctypes.c_uint(number) for number in which), ctypes.byref(found))
        return found.value if status == _SUCCESS else None
