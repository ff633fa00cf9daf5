"""Real images of signs: a folder with one folder of images a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scenery import SIDE

from enginewright.errors import DataError
from enginewright_runtime.canonical import sha256_file

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm")

# Where each split ends on the line from 0 to 1: train, validation, calibration, test.
_SPLIT_ENDS = (0.70, 0.80, 0.85, 1.00)


@dataclass(frozen=True)
class Photographs:
    """The classes of a folder, sorted by name, and its train, validation, calibration and test images."""

    classes: list[str]
    splits: tuple[FileSource, FileSource, FileSource, FileSource]


class FileSource:
    """Images by index; each is read when it is asked for."""

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Give the whole picture resized to (64, 64, 3), and its label. Raises DataError where it is unreadable."""
        path, label = self._files[index]
        try:
            with Image.open(path) as image:
                small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        # Pillow's decoders report damage by any of these.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
        return np.asarray(small), label


def read(root: str, *, class_count: int) -> Photographs:
    """List the images below `root` and share them out by the sha256 of their content.

    Raises DataError where `root` is no folder of class folders, a class has no image, or there are not `class_count`
    classes.
    """
    top = Path(root)
    if not top.is_dir():
        raise DataError(
            f"data.arguments.root: there is no folder {top}",
            hint="correct the path, or leave root empty to render the images (in recipe signs: unset SIGNS_DATA)",
        )
    folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        raise DataError(
            f"data.arguments.root: {top} has {len(folders)} class folders, and a classifier needs 2 or more",
            hint="put the images of each class into a folder of their own, named after the class",
        )
    if len(folders) != class_count:
        raise DataError(
            f"data.arguments.root: {top} has {len(folders)} class folders and the recipe expects {class_count}",
            hint=f"set model.arguments.classes and data.arguments.class_count to {len(folders)} in the recipe, "
            "and train weights for them (make train)",
        )
    splits: tuple[list[tuple[Path, int]], ...] = ([], [], [], [])
    for label, folder in enumerate(folders):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.is_dir())
        if not files:
            raise DataError(
                f"data.arguments.root: the class folder {folder} has no image",
                hint=f"put images there ({', '.join(SUFFIXES)}), or remove the folder",
            )
        for file in files:
            splits[_split_of(file)].append((file, label))
    train, validation, calibration, test = map(FileSource, splits)
    return Photographs([path.name for path in folders], (train, validation, calibration, test))


def _split_of(file: Path) -> int:
    try:
        position = int(sha256_file(file)[:16], 16) / 2**64
    except OSError as error:
        raise _unreadable(file, error) from error
    return next(split for split, end in enumerate(_SPLIT_ENDS) if position < end)


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: cannot be read as an image ({error})", hint="replace the file, or remove it")
