"""Whether the driver is new enough for the TensorRT that is installed, where its distribution's name tells its CUDA."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import metadata

from enginewright_runtime.tensorrt.device import Device, NoDevice
from enginewright_runtime.tensorrt.library import KINDS

__all__ = ["refuse_old_driver"]


def refuse_old_driver(name: str, device: Device) -> None:
    """Raise NoDevice where `name` (tensorrt or tensorrt_rtx) was made for a later CUDA than the driver knows.

    What was made for one release of a CUDA runs on drivers of every release of that major version (NVIDIA, CUDA
    Compatibility), so only the major versions count. A TensorRT from JetPack or from a system package says nothing of
    its CUDA; there TensorRT itself complains.
    """
    knows = re.match(r"\d+", device.driver_cuda)
    made_for = _made_for(name)
    if knows is None or not made_for or min(made_for) <= int(knows[0]):
        return
    title, wanted = KINDS[name].title, min(made_for)
    raise NoDevice(
        f"the NVIDIA driver is too old: it knows CUDA {device.driver_cuda} at the most, and {title} "
        f"{made_for[wanted]} was made for CUDA {wanted}",
        hint=f"update the driver to one that knows CUDA {wanted}, or install a {title} for CUDA {knows[0]}",
    )


def _made_for(name: str) -> dict[int, str]:
    """The CUDA that each installed distribution was made for, by its name, and the distribution."""
    found = {}
    for distribution in KINDS[name].distributions:
        if cuda := re.search(r"-cu(\d+)", distribution):
            with suppress(metadata.PackageNotFoundError):
                found[int(cuda[1])] = f"{metadata.version(distribution)} ({distribution})"
    return found
