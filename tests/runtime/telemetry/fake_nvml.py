"""libnvidia-ml without a GPU, for tests."""

from __future__ import annotations

import ctypes
from typing import Any

from enginewright_runtime.telemetry.nvml import LIBRARY


class Nvml:
    """Stands for libnvidia-ml: two GPUs of one name, the second of which tells no power."""

    def __init__(self, *, status: int = 0, reasons: int = 0x1 | 0x4 | 0x40) -> None:
        self.status = status
        self.reasons = reasons

    def __call__(self, name: str) -> Nvml:
        assert name == LIBRARY
        return self

    def nvmlInit_v2(self) -> int:  # noqa: N802 (NVML's own name, as all of these)
        return self.status

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 3
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:  # noqa: N802
        handle._obj.value = 100 + index.value
        return 4 if index.value == 2 else 0  # the third is another container's

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus: bytes, handle: Any) -> int:  # noqa: N802
        handle._obj.value = 101
        return 0 if bus == b"0000:65:00.0" else 6

    def nvmlDeviceGetPersistenceMode(self, gpu: ctypes.c_void_p, found: Any) -> int:  # noqa: N802
        found._obj.value = 1
        return 0

    def nvmlDeviceGetApplicationsClock(self, gpu: ctypes.c_void_p, kind: ctypes.c_uint, found: Any) -> int:  # noqa: N802
        found._obj.value = 1755
        return 0 if gpu.value == 100 else 3

    def nvmlDeviceGetName(self, gpu: ctypes.c_void_p, name: Any, length: ctypes.c_uint) -> int:  # noqa: N802
        name.value = b"NVIDIA H100"
        return 0

    def nvmlDeviceGetTemperature(self, gpu: ctypes.c_void_p, sensor: ctypes.c_uint, found: Any) -> int:  # noqa: N802
        assert sensor.value == 0
        found._obj.value = gpu.value - 40 if gpu.value else 0
        return 0

    def nvmlDeviceGetClockInfo(self, gpu: ctypes.c_void_p, kind: ctypes.c_uint, found: Any) -> int:  # noqa: N802
        found._obj.value = {1: 1980, 2: 2619}[kind.value]
        return 0

    def nvmlDeviceGetPowerUsage(self, gpu: ctypes.c_void_p, found: Any) -> int:  # noqa: N802
        found._obj.value = 123_456
        return 3 if gpu.value == 101 else 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: ctypes.c_void_p, found: Any) -> int:  # noqa: N802
        found._obj.value = self.reasons
        return 0
