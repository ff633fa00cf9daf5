"""Many samples, run in batches of a size that the engine takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from enginewright_runtime.backends import Array
from enginewright_runtime.errors import InputError
from enginewright_runtime.session import Session

__all__ = ["run_in_batches"]


def run_in_batches(session: Session, inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
    """The outputs for all samples, which are the first dimension of every input and output; `size` of them at a time.

    Raises InputError where the inputs differ in their samples or have none, or an output has another first dimension.
    """
    counts = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"the inputs must have the same number of samples, one or more, got {sorted(counts)}")
    [samples] = counts
    parts = []
    for start in range(0, samples, size):
        batch = {name: array[start : start + size] for name, array in inputs.items()}
        outputs = session.run(batch)
        for name, array in outputs.items():
            if array.shape[:1] != (min(size, samples - start),):
                raise InputError(
                    f"the output {name!r} has the shape {list(array.shape)}: its first dimension is no batch"
                )
        parts.append(outputs)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
