"""The outputs of an engine on a whole split, as an npz file that is written and read a batch at a time: neither takes
more memory for more samples.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

import numpy as np

from enginewright.errors import DataError, StoreError
from enginewright.signature import Array

__all__ = ["OutputsReader", "OutputsWriter"]

_COPIED_BYTES = 1 << 20


class _Column(NamedTuple):
    """One output while it is written: the file that its values go to, and what every sample of it is like."""

    file: IO[bytes]
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class OutputsWriter:
    """Writes what `enginewright_runtime.npz.write_npz` makes of the whole outputs, byte for byte.

    A member of a zip is written at one go, so each output first has a nameless file of its own in the folder of `path`;
    they are joined when all is written. A context manager: after an error nothing is joined.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, _Column] = {}
        self._samples = 0

    def append(self, outputs: Mapping[str, Array], samples: int) -> None:
        """The outputs for the next `samples` samples, which must be their first dimension. Raises DataError where they
        are not, or are of another shape or dtype than those before.
        """
        for name, values in outputs.items():
            if values.shape[:1] != (samples,):
                raise DataError(
                    f"the engine's output '{name}' has the shape {list(values.shape)} for {samples} samples",
                    hint="the first dimension of every output must be the batch: export the network so",
                )
            column = self._columns.get(name)
            if column is None:
                file = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115 - closed in __exit__
                column = self._columns[name] = _Column(file, values.dtype, values.shape[1:])
            if (values.dtype, values.shape[1:]) != (column.dtype, column.shape):
                raise DataError(
                    f"the engine's output '{name}' is {values.dtype} of the shape {list(values.shape[1:])} on the samples "
                    f"from {self._samples} on, and was {column.dtype} of {list(column.shape)} before",
                    hint="outputs are compared sample by sample: export the network with outputs of one size",
                )
            column.file.write(np.ascontiguousarray(values).data)
        self._samples += samples

    def __enter__(self) -> OutputsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._join()
        finally:
            for column in self._columns.values():
                column.file.close()

    def _join(self) -> None:
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, column in self._columns.items():
                shape = (self._samples, *column.shape)
                header = {"descr": np.lib.format.dtype_to_descr(column.dtype), "fortran_order": False, "shape": shape}
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    column.file.seek(0)
                    shutil.copyfileobj(column.file, member, _COPIED_BYTES)


class _Stored(NamedTuple):
    """One output while it is read: the place in its file, and what every sample of it is like."""

    file: IO[bytes]
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class OutputsReader:
    """Reads what OutputsWriter wrote, from the first sample to the last. A context manager."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self._columns: dict[str, _Stored] = {}
        self.samples = 0
        for entry in self._archive.namelist():
            file = self._archive.open(entry)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            self.samples = shape[0]
            self._columns[entry.removesuffix(".npy")] = _Stored(file, dtype, shape[1:])

    def read(self, samples: int) -> dict[str, Array]:
        """The outputs of the next `samples` samples. There are `self.samples` in all; raises StoreError beyond."""
        outputs: dict[str, Array] = {}
        for name, column in self._columns.items():
            size = samples * int(np.prod(column.shape, dtype=np.int64)) * column.dtype.itemsize
            data = column.file.read(size)
            if len(data) != size:
                raise StoreError(f"the outputs of {self.samples} samples were asked for more")
            outputs[name] = np.frombuffer(data, column.dtype).reshape(samples, *column.shape)
        return outputs

    def __enter__(self) -> OutputsReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for column in self._columns.values():
            column.file.close()
        self._archive.close()
