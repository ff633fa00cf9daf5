"""Numpy arrays as bytes (npz), read without trust: no pickles, and no more memory than a limit."""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from enginewright_runtime.backends import Array

# What numpy and zipfile raise for files that are broken, besides ValueError: an array's header is a Python literal, and
# a header that is none ends in whatever part of Python's own reader meets it first.
_BROKEN = (
    *(EOFError, IndexError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
LARGEST_BYTES = 1 << 30  # what the arrays may take; a compressed file of a few kilobytes can promise any size


def write_npz(arrays: Mapping[str, Array]) -> bytes:
    """Arrays by name as an npz file. The same arrays in the same order always make the same bytes.

    Unlike numpy.savez, which takes the names as keywords, it has no names of its own that a tensor could not have.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return stream.getvalue()


def read_npz(data: bytes) -> dict[str, Array]:
    """All arrays of an npz file, by name; ValueError says why it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_BYTES:
            raise ValueError(f"its arrays take {size} bytes, and {LARGEST_BYTES} is the most that is read")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except _BROKEN as error:
        raise ValueError(f"not a file of numpy arrays: {error}") from None
