"""The state of one GPU at one moment, read often and cheaply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from enginewright_runtime.canonical import Json

__all__ = ["GpuState", "WatchedGpu"]


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """What the GPU tells; null is what it does not.

    `clock_khz` and `clock_limit_khz` are of its SMs. `held_back_by` names what keeps the clock down. `throttled_now`:
    by heat, or by more power than is supplied. `throttles` counts such events since the start, where they are counted.
    """

    clock_khz: int | None = None
    clock_limit_khz: int | None = None
    held_back_by: str | None = None
    throttled_now: bool | None = None
    throttles: int | None = None


class WatchedGpu(Protocol):
    """A GPU that can be asked between the chunks of a measurement."""

    def read(self) -> GpuState:
        """Its state now."""

    def settings(self) -> dict[str, Json]:
        """What was set on it by hand and makes it faster or slower."""
