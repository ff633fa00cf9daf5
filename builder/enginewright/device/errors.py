"""What can go wrong with a device over SSH.

::

    EnginewrightError
    └── DeviceError         the device cannot be reached or used as it is
        ├── DeviceLost      the connection broke and did not come back
        ├── DeviceFailed    the engine gives wrong outputs there
        └── DeviceUnfit     the device cannot run or measure the bundle
"""

from __future__ import annotations

from enginewright.errors import EnginewrightError
from enginewright_runtime.exit_codes import ExitCode

__all__ = ["DeviceError", "DeviceFailed", "DeviceLost", "DeviceUnfit"]


class DeviceError(EnginewrightError):
    """The device cannot be reached or used as it is; the hint says what to change."""

    exit_code = ExitCode.USAGE


class DeviceLost(DeviceError):
    """The connection broke and did not come back. What was done on the device is kept there."""

    exit_code = ExitCode.INCONCLUSIVE


class DeviceFailed(DeviceError):
    """The engine gives other outputs on the device than the golden ones. Nothing was brought back."""

    exit_code = ExitCode.FAILED


class DeviceUnfit(DeviceError):
    """The device cannot compile, run or measure the bundle; the message has the runtime's own words."""

    exit_code = ExitCode.INCONCLUSIVE
