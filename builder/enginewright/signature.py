"""The network's inputs and outputs as the recipe states them: names, shapes (a name stands for a size that is free) and
dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SYMBOLIC_SIZE", "InputSpec", "Signature", "largest_difference"]

SYMBOLIC_SIZE = 16  # what a free size other than the batch counts as, where one must be chosen

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InputSpec:
    """`shape` has the batch dimension first."""

    shape: tuple[int | str, ...]
    dtype: str

    @property
    def fixed_batch(self) -> int | None:
        return self.shape[0] if isinstance(self.shape[0], int) else None


@dataclass(frozen=True)
class Signature:
    inputs: Mapping[str, InputSpec]
    outputs: tuple[str, ...]

    @classmethod
    def from_json(cls, model: Any) -> Signature:
        """From the `model` parameter of a step, which the planner made from a checked recipe."""
        inputs = {name: InputSpec(tuple(spec["shape"]), spec["dtype"]) for name, spec in model["inputs"].items()}
        return cls(inputs, tuple(model["outputs"]))

    def batch_size(self, wanted: int) -> int:
        """`wanted`, or the network's own batch size where that is fixed."""
        return next((spec.fixed_batch for spec in self.inputs.values() if spec.fixed_batch), wanted)

    def whole_batches(self, samples: int) -> int:
        """As many of `samples` as fill batches: all of them, unless the network's batch size is fixed."""
        return samples - samples % self.batch_size(1)

    def example(self, *, batch: int, seed: int = 0) -> dict[str, Array]:
        """Standard normal inputs (integers: zeros), with `batch` samples where the batch size is free."""
        random = np.random.default_rng(seed)
        inputs = {}
        for name, spec in self.inputs.items():
            sizes = [
                size if isinstance(size, int) else batch if axis == 0 else SYMBOLIC_SIZE
                for axis, size in enumerate(spec.shape)
            ]
            dtype = np.dtype(spec.dtype)
            inputs[name] = random.standard_normal(sizes).astype(dtype) if dtype.kind == "f" else np.zeros(sizes, dtype)
        return inputs


def largest_difference(ours: Array, theirs: Array) -> float:
    """The largest difference between two outputs, as a share of the second's largest magnitude; infinite where their
    shapes differ.
    """
    if ours.shape != theirs.shape:
        return math.inf
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)  # integers below zero would wrap around
    return float(np.abs(ours - theirs).max()) / max(float(np.abs(theirs).max()), 1e-12)
