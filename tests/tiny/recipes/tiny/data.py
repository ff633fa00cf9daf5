"""Bars: horizontal, vertical, and both diagonals, in noise. Deterministic by split and index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIZES = {"train": 256, "validation": 64, "calibration": 64, "test": 128}


class Split:
    def __init__(self, name: str, noise: float) -> None:
        self.place, self.noise = list(SIZES).index(name), noise
        self.size = SIZES[name]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], int]:
        random = np.random.default_rng([self.place, index])
        label = index % 4
        rows, columns = np.mgrid[0:16, 0:16] + random.integers(0, 4)
        phase = (rows, columns, rows + columns, rows - columns)[label]
        stripes = np.sin(phase * 1.2) > 0
        image = np.repeat(stripes[None], 3, 0) - 0.5 + random.normal(0, self.noise, (3, 16, 16))
        return image.astype(np.float32), label


class Bars:
    classes = ("rows", "columns", "rising", "falling")

    def __init__(self, noise: float) -> None:
        for name in SIZES:
            setattr(self, name, Split(name, noise))
