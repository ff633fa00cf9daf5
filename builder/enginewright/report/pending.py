"""What a report says of an engine that runs elsewhere: how it is finished, what was proven here, and the floors."""

from __future__ import annotations

from dataclasses import dataclass

from enginewright.report.data import Pending
from enginewright.units import NONE, milliseconds

__all__ = ["FLOORS_NOTE", "ShownFloor", "floor_rows", "pending_sentences", "total_floor"]

FLOORS_NOTE = (
    "These are floors, and no latencies: the least time that the operations and the bytes of a layer take at the full rates "
    "of the target. None of them was measured, and a real engine is slower. Bytes are counted as if they came from memory; of a "
    "layer whose data stays in a cache, the floor of its operations alone holds."
)


@dataclass(frozen=True)
class ShownFloor:
    name: str
    precision: str
    compute: str
    memory: str
    bound: str


def pending_sentences(pending: Pending) -> tuple[str, ...]:
    """Why it is pending, what was checked, and what was not."""
    compiled = (
        "The engine is compiled and in the bundle" if pending.compiled else "The engine is compiled on the device"
    )
    sentences = [f"{compiled}; it is not run here: {pending.reason}."]
    if pending.checked_by:
        sentences.append(f"The structure was parsed and built by {pending.checked_by}.")
    else:
        sentences.append(
            "The structure was not checked by NVIDIA's own builder: TensorRT-RTX is not installed, or not for this target."
        )
    if pending.not_int8:
        sentences.append(f"Of the int8 layers, that engine computes in float: {', '.join(pending.not_int8)}.")
    sentences.append(
        "The accuracy is that of the engine's twin: the network that ships, with its Q/DQ pairs as written, under ONNX "
        "Runtime on this computer. Latency, memory and size are what the device tells."
    )
    if pending.power_mode:
        sentences.append(
            f"The target is to be measured in its power mode {pending.power_mode}: nvpmodel -q tells which one is set."
        )
    return tuple(sentences)


def floor_rows(pending: Pending) -> tuple[ShownFloor, ...]:
    """A row a layer; none where no rate of the target is known."""
    return tuple(
        ShownFloor(row.name, row.precision, _floor(row.compute_ns), _floor(row.memory_ns), row.bound)
        for row in pending.floors
        if row.bound
    )


def total_floor(pending: Pending) -> str:
    return _floor(pending.total_floor_ns)


def _floor(nanoseconds: float | None) -> str:
    return NONE if nanoseconds is None else f"≥ {milliseconds(nanoseconds)}"
