"""What NVIDIA's management library tells of data-center GPUs, called through ctypes: no package is needed.

Names, numbers and units are those of nvml.h (NVML API Reference Guide): temperatures in degrees, clocks in MHz, power
in milliwatts. A figure that a GPU does not support is left out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from enginewright_runtime.canonical import Json
from enginewright_runtime.gpu_state import GpuState
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
_THROTTLES = 0x8 | 0x20 | 0x40 | 0x80  # heat, and power beyond what is supplied; the others are settings and limits


class NvmlMissing(Exception):
    """There is no NVML here, or it does not start; the message says which."""


class _Library:
    """The library, started. Raises NvmlMissing where there is none, or it does not start."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        try:
            self.calls = load(LIBRARY)
        except OSError as error:
            raise NvmlMissing(f"NVML is not here ({error})") from None
        if status := self.calls.nvmlInit_v2():
            raise NvmlMissing(f"NVML does not start (status {status}): is the driver loaded?")

    def number(
        self, function: str, gpu: ctypes.c_void_p, *which: int, kind: type[ctypes._SimpleCData[int]] = ctypes.c_uint
    ) -> int | None:
        """What `function` answers; null where the library or the GPU does not have it."""
        found = kind()
        called = getattr(self.calls, function, None)
        if called is None:
            return None
        status = called(gpu, *(ctypes.c_uint(number) for number in which), ctypes.byref(found))
        return found.value if status == _SUCCESS else None

    def reasons(self, gpu: ctypes.c_void_p) -> int | None:
        """The bits of what holds the clocks back now; null where it is not told."""
        # Its name until driver 535 is the second one.
        for function in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            bits = self.number(function, gpu, kind=ctypes.c_ulonglong)
            if bits is not None:
                return bits
        return None


class NvmlSensors:
    """All GPUs that the library lists. Raises NvmlMissing where there is none to ask.

    `load` opens a shared library by name, and raises OSError where it cannot.
    """

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._library = _Library(load)
        self._gpus = self._handles()

    def read(self) -> Reading:
        """Read them all."""
        number = self._library.number
        temperatures: dict[str, float] = {}
        clocks: dict[str, float] = {}
        power: dict[str, float] = {}
        reasons: set[str] = set()
        for name, gpu in self._gpus.items():
            if (celsius := number("nvmlDeviceGetTemperature", gpu, _TEMPERATURE_GPU)) is not None:
                temperatures[name] = float(celsius)
            for clock, kind in _CLOCKS.items():
                if (mhz := number("nvmlDeviceGetClockInfo", gpu, kind)) is not None:
                    clocks[f"{name} {clock}"] = float(mhz)
            if (milliwatts := number("nvmlDeviceGetPowerUsage", gpu)) is not None:
                power[name] = milliwatts / 1000
            reasons.update(_words(self._library.reasons(gpu) or 0))
        return Reading(
            temperatures_c=temperatures, clocks_mhz=clocks, power_w=power, held_back_by=tuple(sorted(reasons))
        )

    def _handles(self) -> dict[str, ctypes.c_void_p]:
        calls = self._library.calls
        count = ctypes.c_uint()
        if calls.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _SUCCESS:
            raise NvmlMissing("NVML does not say how many GPUs there are")
        found: dict[str, ctypes.c_void_p] = {}
        for index in range(count.value):
            handle = ctypes.c_void_p()
            # A GPU that this user or container may not use is none of ours.
            if calls.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == _SUCCESS:
                found[free_name(self._name(handle), found)] = handle
        if not found:
            raise NvmlMissing("NVML lists no GPU")
        return found

    def _name(self, gpu: ctypes.c_void_p) -> str:
        name = ctypes.create_string_buffer(_LONGEST_NAME)
        if self._library.calls.nvmlDeviceGetName(gpu, name, ctypes.c_uint(_LONGEST_NAME)) != _SUCCESS:
            return "gpu"
        return name.value.decode("utf-8", errors="replace")


class NvmlGpu:
    """The one GPU with an address on the PCI bus, which CUDA and NVML number differently. Raises NvmlMissing."""

    def __init__(self, pci_bus: str, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._library = _Library(load)
        self._gpu = ctypes.c_void_p()
        found = self._library.calls.nvmlDeviceGetHandleByPciBusId_v2(pci_bus.encode(), ctypes.byref(self._gpu))
        if found != _SUCCESS:
            raise NvmlMissing(f"NVML does not know the GPU {pci_bus!r} (status {found})")

    def read(self) -> GpuState:
        """Its state now."""
        megahertz = self._library.number("nvmlDeviceGetClockInfo", self._gpu, _CLOCKS["sm"])
        reasons = self._library.reasons(self._gpu)
        return GpuState(
            clock_khz=None if megahertz is None else megahertz * 1000,
            held_back_by=None if reasons is None else ", ".join(_words(reasons)) or "nothing",
            throttled_now=None if reasons is None else bool(reasons & _THROTTLES),
        )

    def settings(self) -> dict[str, Json]:
        """What was set by hand: whether the driver stays loaded, and the clock of the SMs for applications."""
        persistent = self._library.number("nvmlDeviceGetPersistenceMode", self._gpu)
        return {
            "persistence_mode": None if persistent is None else bool(persistent),
            "applications_clock_mhz": self._library.number("nvmlDeviceGetApplicationsClock", self._gpu, _CLOCKS["sm"]),
        }


def _words(bits: int) -> list[str]:
    return [reason for bit, reason in _REASONS.items() if bits & bit]
