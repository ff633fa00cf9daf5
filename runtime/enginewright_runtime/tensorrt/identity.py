"""Whether a GPU is the model that a target means: by its SMs and its memory. Pure.

Boards of one family share their compute capability, and a Jetson's name for its GPU does not tell them apart: "Orin".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from enginewright_runtime.tensorrt.device import Device

__all__ = ["FIGURES", "other_model", "why_other_sms"]

# What a target may say of its GPU, and the name of each in the needs of an engine that is pending.
FIGURES = ("sm_count", "memory_gb")

# Vendors count memory in GB and mean GiB, and the driver tells what is left after the firmware, carve-outs and
# error correction have taken theirs: 61 of 64 GiB on an AGX Orin, 54 on its industrial model, 22.5 of 24 on an A10. So
# a quarter may be missing, and models of one family, which differ by half (64 and 32, 16 and 8, 80 and 40), are told
# apart. A driver never tells more than there is; the tenth on top is for what vendors round (a B200 is of 180 or 192).
_LEAST_SHARE, _MOST_SHARE = 0.75, 1.1
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def other_model(needs: Mapping[str, str], device: Device) -> tuple[str, bool]:
    """Why `device` is not what `needs` say under FIGURES, as a clause that names both; empty if it is.

    And whether fewer SMs are all that differs, which has other reasons than another model.
    """
    wanted = {name: needs[name] for name in FIGURES if name in needs}
    if strange := [f"{name} {value!r}" for name, value in wanted.items() if not _NUMBER.fullmatch(value)]:
        return f"it is for {' and '.join(strange)}, which is no number", False
    sms = float(wanted.get("sm_count", device.sm_count))
    right_memory = _is_of(device.memory_bytes, float(wanted["memory_gb"])) if "memory_gb" in wanted else True
    if sms == device.sm_count and right_memory:
        return "", False
    words = {
        "sm_count": (f"{wanted.get('sm_count')} SMs", f"{device.sm_count}"),
        "memory_gb": (f"{wanted.get('memory_gb')} GB of memory", f"{device.memory_bytes / 2**30:.1f} GiB"),
    }
    meant, found = (" and ".join(words[name][side] for name in wanted) for side in (0, 1))
    switched_off = right_memory and device.sm_count < sms
    reason = why_other_sms(wanted["sm_count"], device) if switched_off else "it is another model"
    return f"it is for a GPU with {meant}, and the {device.name} here has {found}: {reason}", switched_off


def why_other_sms(wanted: str, device: Device) -> str:
    """What it may mean that `device` has another number of SMs than `wanted`, as a clause."""
    if not device.integrated:
        return "it is another model, or a slice of one (MIG)"
    if wanted.isdecimal() and int(wanted) < device.sm_count:
        return "it is another model, or the engine was built in a power mode that switches SMs off"
    return "it is another model, or its power mode switches SMs off (nvpmodel -q)"


def _is_of(found_bytes: int, vendor_gb: float) -> bool:
    return _LEAST_SHARE * vendor_gb <= found_bytes / 2**30 <= _MOST_SHARE * vendor_gb
