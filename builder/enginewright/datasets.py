"""The recipe's data as batches of numpy arrays: one way to read it, for every stage.

A data factory gives an object with the splits that the recipe's steps need (`train`, `validation`, `calibration`,
`test`), each map-style: `len(split)`, and `split[i]` giving `(inputs, label)`, where inputs is one array for a network
with one input, or a dict name -> array, without the batch dimension. `classes` (a list of names) is optional. A split
may offer `__getitems__(indices)`, as torch's DataLoader knows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enginewright.errors import DataError
from enginewright.running import RunningStep
from enginewright.signature import SYMBOLIC_SIZE, Array, InputSpec, Signature
from enginewright.user_code import call_factory, users

__all__ = ["Batch", "Split", "class_names", "load_data", "load_split"]

_BATCH_BYTES = 2 << 20  # of inputs; what a network makes of them inside is many times as much


@dataclass(frozen=True)
class Batch:
    """`inputs` have the batch dimension first; `labels` is None where the data has none."""

    inputs: Mapping[str, Array]
    labels: Array | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Split:
    """One split of the recipe's data, checked against the network's inputs as it is read."""

    name: str
    samples: Any  # the user's map-style dataset
    signature: Signature

    def __len__(self) -> int:
        return len(self.samples)

    def batch_size(self, most: int) -> int:
        """How many samples to take at once: the network's own batch size where that is fixed, else at most `most`, and
        fewer of large inputs.
        """
        sample_bytes = 0
        for spec in self.signature.inputs.values():
            sizes = (size if isinstance(size, int) else SYMBOLIC_SIZE for size in spec.shape[1:])
            sample_bytes += np.dtype(spec.dtype).itemsize * math.prod(sizes)
        return self.signature.batch_size(max(1, min(most, _BATCH_BYTES // sample_bytes)))

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of `size` samples (the last may be smaller), in the given order of indices or from the first to the
        last.

        Raises DataError where a sample does not fit the network's inputs or holds NaN or infinity.
        """
        order = range(len(self)) if order is None else order
        for start in range(0, len(order), size):
            indices = [int(index) for index in order[start : start + size]]
            with users(f"reading the samples {indices[0]}.. of the split '{self.name}'"):
                many = getattr(self.samples, "__getitems__", None)
                pairs = list(many(indices) if many else (self.samples[index] for index in indices))
            if len(pairs) != len(indices):
                raise DataError(
                    f"the split '{self.name}' gave {len(pairs)} samples where {len(indices)} were asked for",
                    hint="mend its __getitems__",
                )
            yield self._stacked([self._pair(pair, index) for pair, index in zip(pairs, indices, strict=True)], indices)

    def _pair(self, pair: Any, index: int) -> tuple[Any, Any]:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DataError(
                f"sample {index} of the split '{self.name}' is a {type(pair).__name__}, expected a pair (inputs, label)",
                hint="give None as the label where there is none",
            )
        return pair[0], pair[1]

    def _stacked(self, pairs: Sequence[tuple[Any, Any]], indices: Sequence[int]) -> Batch:
        samples = [self._named(inputs, index) for (inputs, _), index in zip(pairs, indices, strict=True)]
        stacked = {}
        for name, spec in self.signature.inputs.items():
            arrays: list[Array] = []
            for sample, index in zip(samples, indices, strict=True):
                what = f"sample {index} of the split '{self.name}', input '{name}'"
                array = _array(sample[name], what, dtype=spec.dtype)
                self._check(array, spec, what)
                if arrays and array.shape != arrays[0].shape:
                    raise DataError(
                        f"{what} has the shape {list(array.shape)}, and sample {indices[0]} has {list(arrays[0].shape)}",
                        hint="samples are read in batches: give all of them one size",
                    )
                arrays.append(array)
            stacked[name] = np.stack(arrays)
        return Batch(stacked, self._labels([label for _, label in pairs], indices))

    def _labels(self, labels: Sequence[Any], indices: Sequence[int]) -> Array | None:
        what = f"the labels of the samples {indices[0]}.. of the split '{self.name}'"
        missing = sum(label is None for label in labels)
        if missing not in (0, len(labels)):
            raise DataError(f"{what} are None for {missing} of {len(labels)}", hint="give all samples a label, or none")
        return None if missing else _array(labels, what)

    def _named(self, inputs: Any, index: int) -> Mapping[str, Any]:
        if not isinstance(inputs, Mapping):
            if len(self.signature.inputs) != 1:
                names = ", ".join(self.signature.inputs)
                raise DataError(
                    f"sample {index} of the split '{self.name}' is one array, but the network has {len(self.signature.inputs)} inputs",
                    hint=f"give a dict with the keys {names}",
                )
            return {next(iter(self.signature.inputs)): inputs}
        if set(inputs) != set(self.signature.inputs):
            raise DataError(
                f"sample {index} of the split '{self.name}' has the inputs {sorted(inputs)}",
                hint=f"the recipe's model.inputs are {sorted(self.signature.inputs)}",
            )
        return inputs

    @staticmethod
    def _check(array: Array, spec: InputSpec, what: str) -> None:
        wanted = spec.shape[1:]
        fits = array.ndim == len(wanted) and all(
            isinstance(size, str) or size == actual for size, actual in zip(wanted, array.shape, strict=True)
        )
        if not fits:
            raise DataError(
                f"{what} has the shape {list(array.shape)}, expected {list(wanted)}",
                hint="correct the data factory, or model.inputs in the recipe (without the batch dimension)",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{what} holds NaN or infinity", hint="leave the sample out, or mend how it is read")


def _array(value: Any, what: str, *, dtype: str | None = None) -> Array:
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused by name
            array = np.asarray(value, dtype=dtype)
            given = np.asarray(value) if array.dtype.kind in "iub" else array
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(
            f"{what} cannot be read as an array{f' of {dtype}' if dtype else ''}: {error}",
            hint="give numpy arrays, all of one shape",
        ) from error
    if given.dtype != array.dtype and not np.array_equal(given, array):
        raise DataError(
            f"{what} is {given.dtype}, and its values would change as {array.dtype}",
            hint="correct the data factory, or the dtype in model.inputs",
        )
    return array


def load_data(step: RunningStep) -> Any:
    """The object that the recipe's data factory gives."""
    description = step.parameters["data"]
    return call_factory(description, step.code_folder)


def load_split(data: Any, name: str, step: RunningStep) -> Split:
    """One split, which must be there and not be empty."""
    with users(f"making the split '{name}'"):
        samples = getattr(data, name, None)
    if samples is None:
        raise DataError(
            f"the data factory gives no split '{name}', which step '{step.name}' needs",
            hint=f"give the object that it returns an attribute '{name}': a map-style dataset of (inputs, label)",
        )
    with users(f"len() of the split '{name}'"):
        size = len(samples)
    if size == 0:
        raise DataError(f"the split '{name}' is empty", hint="check the data factory's arguments in the recipe")
    return Split(name, samples, Signature.from_json(step.parameters["model"]))


def class_names(data: Any) -> tuple[str, ...] | None:
    with users("reading the names of the classes"):
        names = getattr(data, "classes", None)
        return None if names is None else tuple(str(name) for name in names)
