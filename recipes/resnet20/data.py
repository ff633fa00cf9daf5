"""Real images without labels for ResNet-20: photographs of traffic lights, made 32x32.

CIFAR-10 cannot be passed on, so the network sees images that it was not trained for and that are in none of its
classes. They are real photographs all the same, which is what ranges of activations and a comparison of outputs need:
the splits `calibration` and `test` are map-style, of (image, None).

The photographs come from the MIT self-driving car course and were distributed by Udacity under CC BY-SA 4.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Sample = tuple[NDArray[np.float32], None]

# Of ImageNet, in RGB: what the author trained with.
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Split:
    """A part of the photographs, all in memory as uint8."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Give several samples at once, as torch's DataLoader asks for a batch."""
        return [(image, None) for image in normalise(self._pixels[list(indices)])]


class Photographs:
    """The data factory of the recipe; `photographs` is the file `traffic_lights_64x32.npz`.

    `calibration` has its 1,187 training images and `test` its 297 test images, every second row of each, so that
    64x32 becomes 32x32. There are no labels, and so no splits to train with. `classes` are those of CIFAR-10.

    Raises FileNotFoundError where the file is missing; the message says how to mend it.
    """

    def __init__(self, photographs: str) -> None:
        self._file = Path(photographs)
        if not self._file.is_file():
            raise FileNotFoundError(
                f"the photographs of recipe resnet20 are missing: the folder {self._file.parent.resolve()} "
                f"has no file {self._file.name}. Set the environment variable ENGINEWRIGHT_DATA to the folder that "
                "holds traffic-lights/traffic_lights_64x32.npz (without it, ../shared/data beside the project is read)"
            )
        self.classes = list(_CLASSES)

    @cached_property
    def calibration(self) -> Split:
        return self._split("x_train")

    @cached_property
    def test(self) -> Split:
        return self._split("x_test")

    def _split(self, name: str) -> Split:
        with np.load(self._file, allow_pickle=False) as arrays:
            return Split(arrays[name][:, ::2])


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn images (n, height, width, 3) from 0 to 255 into what the network takes: (n, 3, height, width).

    >>> black = normalise(np.zeros((1, 32, 32, 3), dtype=np.uint8))
    >>> [round(float(value), 3) for value in black[0, :, 0, 0]]
    [-2.118, -2.036, -1.804]
    """
    shares = (pixels.astype(np.float32) / np.float32(255) - _MEAN) / _DEVIATION
    return np.ascontiguousarray(shares.transpose(0, 3, 1, 2))
