"""Which samples calibration looks at, and whether they are samples at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from enginewright.datasets import Split
from enginewright.errors import DataError
from enginewright.signature import Array

__all__ = ["Shares", "refuse_placeholders", "share_out"]

_MOST_HELD_BACK = 256  # each method runs them all
_SMALLEST_SIDE = 8  # pixels; what is smaller has too few neighbours to tell noise from an image
_SAMPLE_LIMIT, _POOLED_LIMIT = 5.0, 4.0  # standard errors of a correlation; noise stays below in all of its samples


@dataclass(frozen=True)
class Shares:
    """Indices into the split. `observed` give the ranges; `held_back`, in random order, judge them."""

    observed: tuple[int, ...]
    held_back: tuple[int, ...] = ()


def share_out(split: Split, wanted: int, *, hold_back: bool) -> Shares:
    """Choose `wanted` samples to observe, and where asked others to hold back: at most 256, and where few are left a
    quarter of the split, which then gives fewer than `wanted` to observe.

    Samples are spread evenly over the split, because data sets are often sorted by class. Where the network's batch
    size is fixed, both are whole batches. Raises DataError where there are too few.
    """
    total, size = len(split), split.signature.batch_size(1)
    if total < wanted:
        raise DataError(
            f"the split 'calibration' has {total} samples, and calibration.samples asks for {wanted}",
            hint=f"give more calibration data, or set calibration.samples to at most {total}",
        )
    if wanted < size:
        raise DataError(
            f"the network's batch size of {size} is more than calibration.samples asks for",
            hint=f"set calibration.samples to a multiple of {size}",
        )
    most = total - max(total // 4, size) if hold_back else total
    observed = _spread(range(total), split.signature.whole_batches(min(wanted, most)))
    if not hold_back:
        return Shares(observed)
    taken = set(observed)
    rest = [index for index in range(total) if index not in taken]
    held_back = _spread(rest, split.signature.whole_batches(min(len(rest), _MOST_HELD_BACK)))
    if not observed or not held_back:
        raise DataError(
            f"calibration.method is auto, and of {total} samples none can be held back to judge the methods by: "
            f"the network's batch size is {size}",
            hint=f"give at least {2 * size} calibration samples, or name a method",
        )
    return Shares(observed, tuple(int(index) for index in np.random.default_rng(0).permutation(held_back)))


def _spread(indices: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(indices[number * len(indices) // count] for number in range(count))


def refuse_placeholders(split: Split, order: Sequence[int]) -> None:
    """Raise DataError where the samples at `order` are all the same, hold one value each, or are white noise: their
    ranges would say nothing about what the network will see.

    Reads samples until none of these can be true any more, which on real data is the second one.
    """
    first: Mapping[str, Array] = {}
    same, constant, noise = len(order) > 1, True, _WhiteNoise()
    for batch in split.batches(split.signature.batch_size(1), order=order):
        first = first or {name: values[:1] for name, values in batch.inputs.items()}
        same = same and all(
            np.array_equal(values, first[name].repeat(len(batch), 0)) for name, values in batch.inputs.items()
        )
        constant = constant and all(_holds_one_value(values) for values in batch.inputs.values())
        noise.look(batch.inputs)
        if not (same or constant or noise.possible):
            return
    if same:
        raise DataError(
            f"all {len(order)} samples that calibration reads are the same",
            hint="check the split 'calibration' of the data factory: ranges need what the network will see",
        )
    if constant and any(values[0].size > 1 for values in first.values()):
        raise DataError(
            f"each of the {len(order)} samples that calibration reads holds the same value everywhere",
            hint="check the split 'calibration' of the data factory: these seem to be placeholders, whose ranges mean nothing",
        )
    if noise.found():
        raise DataError(
            f"the calibration data is noise: in none of {len(order)} samples do neighbouring pixels of "
            f"{' or '.join(sorted(noise.inputs))} have anything in common",
            hint="check the split 'calibration' of the data factory: random placeholders give ranges that mean nothing",
        )


def _holds_one_value(values: Array) -> bool:
    """Whether each sample of a batch is the same value throughout."""
    flat = values.reshape(len(values), -1)
    return bool((flat == flat[:, :1]).all())


@dataclass
class _WhiteNoise:
    """Whether every image so far may be white noise: pixels that are independent of their neighbours.

    The correlation of n pairs of independent pixels lies about 1 / sqrt(n) around zero. In a photograph it is nearly
    one.
    """

    possible: bool = True
    inputs: set[str] = field(default_factory=set)
    _sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # over all pairs, by axis
    _pairs: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def look(self, inputs: Mapping[str, Array]) -> None:
        if not self.possible:
            return
        images = {name: planes for name, values in inputs.items() if (planes := _planes(values)) is not None}
        self.inputs.update(images)
        self.possible = bool(images) and not any(self._has_structure(planes) for planes in images.values())

    def found(self) -> bool:
        return self.possible and bool((np.abs(self._sums) <= _POOLED_LIMIT * np.sqrt(self._pairs)).all())

    def _has_structure(self, planes: npt.NDArray[np.float64]) -> bool:
        """planes: (samples, channels, height, width)."""
        for image in planes:
            centred = image - image.mean(axis=(1, 2), keepdims=True)
            variance = float((centred**2).mean())
            if variance == 0.0 or _mostly_one_value(image):
                return True  # blank or sparse, in any case not noise
            # Taking the mean away makes any two pixels a little unlike each other.
            bias = 1.0 / (image[0].size - 1)
            for axis in (0, 1):
                near, far = (centred[:, 1:], centred[:, :-1]) if axis == 0 else (centred[:, :, 1:], centred[:, :, :-1])
                correlation = float((near * far).mean()) / variance + bias
                if abs(correlation) * math.sqrt(near.size) > _SAMPLE_LIMIT:
                    return True
                self._sums[axis] += correlation * near.size
                self._pairs[axis] += near.size
        return False


def _mostly_one_value(image: npt.NDArray[np.float64]) -> bool:
    return 2 * int(np.count_nonzero(image == np.median(image))) > image.size


def _planes(values: Array) -> npt.NDArray[np.float64] | None:
    """A batch of images as (samples, channels, height, width), whichever of the usual orders it came in; None for what
    is no image.
    """
    if values.ndim != 4 or not (values.dtype.kind == "f" or values.dtype == np.uint8):
        return None
    if min(values.shape[2:]) < _SMALLEST_SIDE:
        values = np.moveaxis(values, -1, 1)
    return values.astype(np.float64) if min(values.shape[2:]) >= _SMALLEST_SIDE else None
