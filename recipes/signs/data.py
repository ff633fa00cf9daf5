"""Traffic signs as a data set: rendered, or read from a folder of real images.

Both give the splits `train`, `validation`, `calibration` and `test`, map-style, of (image, label): an image is float32
(3, 64, 64) as `normalise` makes it, a label the position of its class in `classes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import folder
import numpy as np
from numpy.typing import NDArray
from render import CLASSES, Renderer
from scenery import SIDE

from enginewright.errors import DataError

Sample = tuple[NDArray[np.float32], int]

# Part of every image's random stream: a changed or reused number changes or repeats images.
_STREAMS = {"train": 0, "validation": 1, "calibration": 2, "test": 3}


class Source(Protocol):
    """Images by index: what a split reads once and keeps."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Give the picture (64, 64, 3) and its label."""


class Split:
    """A part of the data; images are made on first use and kept as uint8."""

    def __init__(self, source: Source) -> None:
        self._source = source
        # Fresh zeros take no memory until they are written, so an unused split costs nothing.
        self._pixels = np.zeros((len(source), SIDE, SIDE, 3), dtype=np.uint8)
        self._labels = np.full(len(source), -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Give several samples at once, as torch's DataLoader asks for a batch."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"there is no image {index} in a split of {len(self)}")
            if self._labels[index] < 0:
                self._pixels[index], self._labels[index] = self._source.read(index)
        images = normalise(self._pixels[indices])
        return [(image, int(label)) for image, label in zip(images, self._labels[indices], strict=True)]


class Signs:
    """The data factory of the recipe.

    Without `root`, images are rendered: image i of a split is made from (seed, split, i) alone and shows class
    i modulo 43, so a smaller split is the beginning of a larger one. The four sizes say how many images.

    With `root`, a folder of class folders with images of any size, the sizes and the seed do not count: each file goes
    to a split by the digest of its content (70, 10, 5 and 15 %), so new files never move the others.

    Raises DataError where the folder is not usable; the message says how to mend it.

    >>> image, label = Signs().test[44]
    >>> image.shape, Signs().classes[label]
    ((3, 64, 64), 'speed limit 30')
    """

    def __init__(
        self,
        root: str = "",
        seed: int = 2026,
        *,
        class_count: int = len(CLASSES),
        train: int = 43 * 300,
        validation: int = 43 * 30,
        calibration: int = 43 * 24,
        test: int = 43 * 100,
    ) -> None:
        if root:
            photographs = folder.read(root, class_count=class_count)
            self.classes = photographs.classes
            self.train, self.validation, self.calibration, self.test = map(Split, photographs.splits)
            return
        if class_count != len(CLASSES):
            raise DataError(
                f"the rendered signs have {len(CLASSES)} classes and the recipe expects {class_count}",
                hint=f"set data.arguments.class_count and model.arguments.classes to {len(CLASSES)} in the recipe, "
                "or name a folder of images in data.arguments.root",
            )
        self.classes = list(CLASSES)
        renderer = Renderer(seed=seed)
        self.train = Split(_Rendered(renderer, stream=_STREAMS["train"], size=train))
        self.validation = Split(_Rendered(renderer, stream=_STREAMS["validation"], size=validation))
        self.calibration = Split(_Rendered(renderer, stream=_STREAMS["calibration"], size=calibration))
        self.test = Split(_Rendered(renderer, stream=_STREAMS["test"], size=test))


class _Rendered:
    """A source that renders; classes take turns, so every part of it is balanced."""

    def __init__(self, renderer: Renderer, *, stream: int, size: int) -> None:
        self._renderer = renderer
        self._stream = stream
        self._size = size

    def __len__(self) -> int:
        return self._size

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        label = index % len(CLASSES)
        return self._renderer.render(label, split=self._stream, index=index), label


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn images (n, 64, 64, 3) from 0 to 255 into what the network takes: (n, 3, 64, 64) from -1 to 1.

    >>> float(normalise(np.full((1, 64, 64, 3), 255, dtype=np.uint8)).min())
    1.0
    """
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    planes /= np.float32(127.5)
    planes -= np.float32(1.0)
    return planes
