"""Whether the driver is new enough for the TensorRT that is installed, where its distribution's name tells its CUDA."""

from __future__ import annotations

import re
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
    knows = re.match(r"(\d+)\.\d+", device.driver_cuda)
    for distribution in KINDS[name].distributions:
        made_for = re.search(r"-cu(\d+)", distribution)
        if made_for is None or knows is None or int(knows[1]) >= int(made_for[1]):
            continue
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        title = KINDS[name].title
        raise NoDevice(
            f"the NVIDIA driver is too old: it knows CUDA {device.driver_cuda} at the most, and {title} {version} "
            f"({distribution}) was made for CUDA {made_for[1]}",
            hint=f"update the driver to one that knows CUDA {made_for[1]}, or install a {title} for CUDA {knows[1]}",
        )
