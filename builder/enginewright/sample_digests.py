"""Digests of samples: whether one sample is in two splits can be told without keeping it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from enginewright.errors import DataError
from enginewright.signature import Array

__all__ = ["FORMAT", "digests_from_json", "digests_of", "digests_to_json"]

FORMAT = 1  # of the JSON form. 1: the first.


def digests_of(inputs: Mapping[str, Array]) -> list[bytes]:
    """The sha256 of each sample of a batch: of its inputs' names, dtypes, shapes and little-endian values, in the order
    of the names. The label does not count.
    """
    columns = [(name, _canonical(inputs[name])) for name in sorted(inputs)]
    heads = [f"{name}\n{values.dtype.name}\n{list(values.shape[1:])}\n".encode() for name, values in columns]
    found = []
    for index in range(len(columns[0][1])):
        digest = hashlib.sha256()
        for head, (_, values) in zip(heads, columns, strict=True):
            digest.update(head)
            digest.update(values[index].data if values[index].ndim else values[index].tobytes())
        found.append(digest.digest())
    return found


def digests_to_json(digests: Iterable[bytes]) -> dict[str, object]:
    """{"format", "digest": "sha256", "samples": [hexadecimal, sorted, each once]}."""
    return {"format": FORMAT, "digest": "sha256", "samples": sorted({digest.hex() for digest in digests})}


def digests_from_json(json: object) -> frozenset[bytes]:
    """Read the JSON form. Raises DataError for a newer format, and for what is no such form."""
    if not isinstance(json, dict) or not isinstance(json.get("format"), int):
        raise DataError("these are no digests of samples: the key 'format' is missing")
    if json["format"] > FORMAT:
        raise DataError(
            f"these digests of samples have format {json['format']}, newer than {FORMAT}",
            hint="use a newer enginewright",
        )
    try:
        return frozenset(bytes.fromhex(digest) for digest in json["samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("these are no digests of samples: 'samples' is not a list of hexadecimal digests") from error


def _canonical(values: Array) -> Array:
    """The values in the order of C and the byte order of little-endian machines."""
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
