"""What the CUDA driver's error codes mean for a user: the fix for those that a machine's state gives."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["NO_DEVICE", "OUT_OF_MEMORY", "cuda_hint"]

# CUresult of the driver API (cuda.h); these numbers never change.
OUT_OF_MEMORY, NO_DEVICE = 2, 100
_HINTS: Mapping[int, str] = {
    OUT_OF_MEMORY: "close other sessions, or lower the largest batch that the engine is built for",
    34: "LD_LIBRARY_PATH leads to the toolkit's stub of libcuda.so.1: take that folder out of it",
    46: (
        "another process has the GPU to itself: see nvidia-smi; measuring takes processes of its own, so its compute mode "
        "must be Default (sudo nvidia-smi -c 0)"
    ),
    NO_DEVICE: (
        "run nvidia-smi for the cause; a container needs --gpus all (on a Jetson --runtime nvidia), and a GPU in MIG mode "
        "an instance"
    ),
    101: "run nvidia-smi for the cause, and see CUDA_VISIBLE_DEVICES",
    802: "start NVIDIA's fabric manager, in the driver's version (systemctl start nvidia-fabricmanager)",
    803: "the driver's library and its kernel module differ: restart the machine; in a container, take out CUDA's compat folder",
    804: "CUDA's forward compatibility does not cover this GPU: update the driver, or install a TensorRT for its CUDA",
    999: "restart the machine, or load the kernel module anew (modprobe nvidia-uvm)",
}


def cuda_hint(code: int, *, environment: Mapping[str, str] = os.environ) -> str:
    """The fix for an error code of CUDA's driver; "" where none is known.

    >>> cuda_hint(100, environment={"CUDA_VISIBLE_DEVICES": ""})
    "CUDA_VISIBLE_DEVICES is '', which hides GPUs: unset it, or name one that is there"
    """
    hides = environment.get("CUDA_VISIBLE_DEVICES")
    if code in (NO_DEVICE, 101) and hides is not None:
        return f"CUDA_VISIBLE_DEVICES is {hides!r}, which hides GPUs: unset it, or name one that is there"
    return _HINTS.get(code, "")
