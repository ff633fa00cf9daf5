"""The GPU of a measurement: what makes figures that were taken on it comparable, and its state while they are taken.

Nothing is looked for where no engine runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from enginewright_runtime.canonical import Json
from enginewright_runtime.gpu_state import WatchedGpu
from enginewright_runtime.host import fingerprint
from enginewright_runtime.tensorrt.device import Device, NoDevice
from enginewright_runtime.tensorrt.library import KINDS

__all__ = ["fingerprint_for", "gpu_words", "watched_gpu"]

_ROOT = Path("/")


def fingerprint_for(backends: Iterable[str]) -> dict[str, Json]:
    """The fingerprint of this machine for a measurement of engines of `backends`: with its GPU under `gpu` where one of
    them runs there; null is no GPU.
    """
    if not _on_gpu(backends):
        return fingerprint()
    device = _device()
    return {**fingerprint(), "gpu": None if device is None else _identity(device)}


def watched_gpu(backends: Iterable[str]) -> WatchedGpu | None:
    """The GPU that engines of `backends` run on, to be read between their chunks; None where none of them does, and
    where the GPU tells nothing.
    """
    device = _device() if _on_gpu(backends) else None
    return None if device is None else _watched(device)


def gpu_words(host: Mapping[str, Json]) -> str:
    """The GPU of a fingerprint for people; empty where it has none.

    >>> gpu_words({"gpu": {"name": "Orin", "sm_count": 16, "power_mode": "MAXN", "clock_held": False}})
    'Orin (16 SMs, power mode MAXN, clock not held)'
    >>> gpu_words({"cores": 2})
    ''
    """
    gpu = host.get("gpu")
    if not isinstance(gpu, Mapping):
        return ""
    words = [f"{gpu.get('sm_count')} SMs"]
    words += [f"power mode {gpu['power_mode'] or 'unknown'}"] if "power_mode" in gpu else []
    words += ["clock held" if gpu["clock_held"] else "clock not held"] if gpu.get("clock_held") is not None else []
    return f"{gpu.get('name')} ({', '.join(words)})"


def _on_gpu(backends: Iterable[str]) -> bool:
    return any(name in KINDS for name in backends)


def _device() -> Device | None:
    from enginewright_runtime.backends.tensorrt import BACKEND

    try:
        return BACKEND.device()
    except NoDevice:
        return None


def _watched(device: Device) -> WatchedGpu | None:
    from enginewright_runtime.telemetry.jetson import JetsonGpu
    from enginewright_runtime.telemetry.nvml import NvmlGpu, NvmlMissing

    if device.integrated:
        return JetsonGpu(_ROOT)
    try:
        return NvmlGpu(device.pci_bus)
    except NvmlMissing:
        return None


def _identity(device: Device) -> dict[str, Json]:
    watched = _watched(device)
    return {
        "name": device.name,
        "compute_capability": device.compute_capability,
        "sm_count": device.sm_count,
        "memory_mib": device.memory_bytes >> 20,
        "driver_cuda": device.driver_cuda,
        **(watched.settings() if watched else {}),
    }
