"""Roofline floors: the least time that a layer can take on a device, from its operations and bytes and the device's rates
(Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009). Pure.

A floor is no latency: nothing is measured here, and a real engine is slower. Bytes are counted as if they came from
memory: of a layer whose data stays in a cache, the floor of its operations alone holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from enginewright.target import Target

__all__ = ["FORMAT", "Floor", "Rates", "floors", "floors_to_json", "rates_of"]

FORMAT = 1  # of the JSON form. 1: the first.

_BYTES = {"int8": 1, "float16": 2}


@dataclass(frozen=True)
class Rates:
    """What a device can do in a second at most; None where it is not known. MACs: an operation is half of one."""

    int8_tops: float | None
    float16_tflops: float | None
    bandwidth_gb_s: float | None

    @property
    def compares_precisions(self) -> bool:
        """Whether a floor of int8 and one of float16 can be told apart."""
        return self.int8_tops is not None and self.float16_tflops is not None


@dataclass(frozen=True)
class Floor:
    """The least nanoseconds of one layer, for its operations and for its bytes; None where the rate is not known."""

    name: str
    precision: str
    compute_ns: float | None
    memory_ns: float | None

    @property
    def least_ns(self) -> float:
        return max(self.compute_ns or 0.0, self.memory_ns or 0.0)

    @property
    def bound(self) -> str:
        """What bounds it: compute or memory; empty where no rate is known."""
        if self.compute_ns is None and self.memory_ns is None:
            return ""
        return "compute" if (self.compute_ns or 0.0) >= (self.memory_ns or 0.0) else "memory"


def rates_of(target: Target) -> Rates:
    return Rates(target.int8_tops, target.float16_tflops, target.bandwidth_gb_s)


def floors(layers: Iterable[Mapping[str, Any]], rates: Rates) -> tuple[Floor, ...]:
    """The floor of each layer of a layers artifact, at batch one.

    What is not int8 is taken as float16. Of the bytes, a layer's weights are read and its outputs written; what it reads
    from the layer before may still be in the cache.

    >>> layer = {"name": "conv", "precision": "int8", "macs": 10**9, "weights": 10**6, "output_shape": [1, 64, 32, 32]}
    >>> [floor] = floors([layer], Rates(int8_tops=100, float16_tflops=50, bandwidth_gb_s=200))
    >>> floor.compute_ns, floor.bound
    (20000.0, 'compute')
    """
    return tuple(_floor(layer, rates) for layer in layers)


def floors_to_json(found: Iterable[Floor]) -> dict[str, Any]:
    """The JSON form: {"format", "layers": [{...}], "total_ns"}; every time in it is a floor."""
    rows = list(found)
    return {
        "format": FORMAT,
        "layers": [
            {
                "name": floor.name,
                "precision": floor.precision,
                "compute_floor_ns": floor.compute_ns,
                "memory_floor_ns": floor.memory_ns,
                "bound": floor.bound,
            }
            for floor in rows
        ],
        "total_floor_ns": sum(floor.least_ns for floor in rows) if any(floor.bound for floor in rows) else None,
    }


def _floor(layer: Mapping[str, Any], rates: Rates) -> Floor:
    precision = "int8" if layer["precision"] == "int8" else "float16"
    tera = rates.int8_tops if precision == "int8" else rates.float16_tflops
    moved = (layer["weights"] + prod(size for size in layer["output_shape"] if isinstance(size, int))) * _BYTES[
        precision
    ]
    return Floor(
        name=layer["name"],
        precision=precision,
        compute_ns=None if tera is None else 2 * layer["macs"] / (tera * 1e3),
        memory_ns=None if rates.bandwidth_gb_s is None else moved / rates.bandwidth_gb_s,
    )
