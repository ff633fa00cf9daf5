"""Photographs of traffic lights (red, yellow, green) as a data set.

The splits `train`, `validation`, `calibration` and `test` are map-style, of (image, label): an image is float32
(3, 64, 32) as `normalise` makes it, a label the position of its class in `classes`.

The photographs come from the MIT self-driving car course and were distributed by Udacity under CC BY-SA 4.0. Crops of
one drive lie in both the given training and the given test set, so no split here is independent of another: accuracy
on them says that a pipeline works, not how well the network does on another road.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Sample = tuple[NDArray[np.float32], int]

# Shares of the given training images, in each class. The other 70 % train.
_VALIDATION = 0.2
_CALIBRATION = 0.1


class Split:
    """A part of the photographs: `indices` into `pixels` (n, 64, 32, 3) and `labels` (n), in their order."""

    def __init__(self, pixels: NDArray[np.uint8], labels: NDArray[np.uint8], indices: Indices) -> None:
        self._pixels = pixels
        self._labels = labels
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Give several samples at once, as torch's DataLoader asks for a batch."""
        chosen = self.indices[list(indices)]
        images = normalise(self._pixels[chosen])
        return [(image, int(label)) for image, label in zip(images, self._labels[chosen], strict=True)]


class Lights:
    """The data factory of the recipe; `photographs` is the file `traffic_lights_64x32.npz`.

    `test` is the given test set: 297 images, 9 of them yellow. The 1,187 given training images are shared out: in each
    class, ordered by the sha256 of their pixels, the first fifth is `validation`, the next tenth `calibration`, and
    the rest trains. So every split has yellow images (24, 7 and 4), and their order in the file does not matter.

    In `train` an image of a rare class comes several times, so that the three classes are equally frequent: whatever
    learns from the split, or judges channels by it, would else hardly see yellow.

    Raises FileNotFoundError where the file is missing; the message says how to mend it.
    """

    def __init__(self, photographs: str) -> None:
        self._file = Path(photographs)
        if not self._file.is_file():
            raise FileNotFoundError(
                f"the photographs of recipe lights are missing: the folder {self._file.parent.resolve()} "
                f"has no file {self._file.name}. Set the environment variable ENGINEWRIGHT_DATA to the folder that "
                "holds traffic-lights/traffic_lights_64x32.npz (without it, ../shared/data beside the project is read)"
            )

    @cached_property
    def classes(self) -> list[str]:
        return [str(name) for name in self._array("classes")]

    @cached_property
    def train(self) -> Split:
        _, labels = self._training
        return self._part(_balanced(self._shares.train, labels))

    @cached_property
    def validation(self) -> Split:
        return self._part(self._shares.validation)

    @cached_property
    def calibration(self) -> Split:
        return self._part(self._shares.calibration)

    @cached_property
    def test(self) -> Split:
        labels = self._array("y_test")
        return Split(self._array("x_test"), labels, np.arange(len(labels)))

    @cached_property
    def _training(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self._array("x_train"), self._array("y_train")

    @cached_property
    def _shares(self) -> _Shares:
        return _share_out(*self._training)

    def _part(self, indices: Indices) -> Split:
        return Split(*self._training, indices)

    def _array(self, name: str) -> NDArray[np.uint8]:
        with np.load(self._file, allow_pickle=False) as arrays:
            array: NDArray[np.uint8] = arrays[name]
        return array


class _Shares(NamedTuple):
    train: Indices
    validation: Indices
    calibration: Indices


def _share_out(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> _Shares:
    order = np.array(sorted(range(len(labels)), key=lambda index: hashlib.sha256(pixels[index].tobytes()).digest()))
    parts: tuple[list[Indices], ...] = ([], [], [])
    for label in np.unique(labels):
        members = order[labels[order] == label]
        first = round(_VALIDATION * len(members))
        second = first + round(_CALIBRATION * len(members))
        for part, chosen in zip(parts, (members[second:], members[:first], members[first:second]), strict=True):
            part.append(chosen)
    return _Shares(*(np.sort(np.concatenate(part)) for part in parts))


def _balanced(indices: Indices, labels: NDArray[np.uint8]) -> Indices:
    """Repeat the indices of each class in turn until every class has as many as the largest."""
    largest = max(np.bincount(labels[indices]))
    classes = (indices[labels[indices] == label] for label in np.unique(labels[indices]))
    return np.concatenate([np.resize(members, largest) for members in classes])


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn images (n, height, width, 3) from 0 to 255 into what the network takes: (n, 3, height, width) from -1 to 1.

    >>> float(normalise(np.full((1, 64, 32, 3), 255, dtype=np.uint8)).min())
    1.0
    """
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    planes /= np.float32(127.5)
    planes -= np.float32(1.0)
    return planes
