"""A recipe's material for tests on a device: its pending bundle, test samples, and what was said of them elsewhere.

A folder has one folder for each recipe: `bundle.ewb`, `samples.npz` and `samples.json`. Reading them needs numpy and the
runtime alone, so that a device without the builder can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginewright_runtime.atomic import write_file
from enginewright_runtime.backends import Array
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.canonical import Json, canonical_bytes, sha256_hex, strict_json
from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.npz import read_npz, write_npz

__all__ = ["Prepared", "PreparedError", "Samples", "as_carried", "prepared_names", "read_prepared", "write_prepared"]

FORMAT = 1  # of samples.json. 1: the first.

_PALETTE = "uint8 of a palette"  # exact
_HALF = "float16"  # rounded, before anything was computed on them
_PLAIN = "as it is"


class PreparedError(EnginewrightError):
    """A folder that was prepared for a device is missing, altered, or of a format that is not known."""


@dataclass(frozen=True)
class Samples:
    """Test samples: `reference` and `twin` are the outputs of the float network and of the int8 engine's twin on them.

    `labels` is None where the recipe's data has none.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    reference: Mapping[str, Array]
    twin: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def batch(self, first: int, size: int) -> dict[str, Array]:
        """The inputs of `size` samples from `first` on, and fewer at the end."""
        return {name: array[first : first + size] for name, array in self.inputs.items()}


@dataclass(frozen=True)
class Prepared:
    """`metric` is one of the builder's own; `accuracy` has what it says of these very samples, by "reference" and "twin"."""

    name: str
    bundle: Bundle
    metric: str
    samples: Samples
    accuracy: Mapping[str, float]
    encodings: Mapping[str, str]


def as_carried(array: Array) -> tuple[Array, str]:
    """What a device will read of some inputs, and how they are carried.

    An image of 8 bits a channel is scaled to few values, and is carried exactly as their numbers. Other floats are
    rounded to float16, and whatever is computed on them must be computed on what this gives.
    """
    if array.dtype.kind != "f" or array.dtype.itemsize <= 2:
        return array, _PLAIN
    if _palette(array) is not None:
        return array, _PALETTE
    rounded: Array = array.astype(np.float16).astype(array.dtype)
    return rounded, _HALF


def _palette(array: Array) -> Array | None:
    found: Array = np.unique(array[: max(1, len(array) // 8)])
    if len(found) <= 256:  # a quick look tells whether the whole is worth sorting
        found = np.unique(array)
    return found if len(found) <= 256 else None


def _encoded(name: str, array: Array, encoding: str) -> dict[str, Array]:
    if encoding == _PALETTE:
        values = np.unique(array)
        return {f"index.{name}": np.searchsorted(values, array).astype(np.uint8), f"palette.{name}": values}
    return {f"input.{name}": array.astype(np.float16) if encoding == _HALF else array}


def prepared_names(folder: Path) -> tuple[str, ...]:
    """The recipes in a prepared folder."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/samples.json")))


def write_prepared(
    folder: Path, name: str, bundle: Path, samples: Samples, *, metric: str, accuracy: Mapping[str, float]
) -> None:
    """Write one recipe's material. The inputs must be what `as_carried` gave."""
    encodings = {tensor: as_carried(array)[1] for tensor, array in samples.inputs.items()}
    arrays: dict[str, Array] = {}
    for tensor, array in samples.inputs.items():
        arrays.update(_encoded(tensor, array, encodings[tensor]))
    if samples.labels is not None:
        arrays["labels"] = samples.labels
    for side, outputs in (("reference", samples.reference), ("twin", samples.twin)):
        arrays.update({f"{side}.{tensor}": values for tensor, values in outputs.items()})
    data, packed = write_npz(arrays), bundle.read_bytes()
    described: dict[str, Json] = {
        "format": FORMAT,
        "recipe": name,
        "metric": metric,
        "samples": len(samples),
        "accuracy": dict(accuracy),
        "encodings": {
            tensor: {"kind": kind, "dtype": samples.inputs[tensor].dtype.name} for tensor, kind in encodings.items()
        },
        "sha256": {"samples.npz": sha256_hex(data), "bundle.ewb": sha256_hex(packed)},
    }
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    write_file(place / "bundle.ewb", packed)
    write_file(place / "samples.npz", data)
    write_file(place / "samples.json", canonical_bytes(described))


def read_prepared(folder: Path, name: str) -> Prepared:
    """Read one recipe's material, every byte of it verified. Raises PreparedError and BundleError."""
    place = folder / name
    source = str(place / "samples.json")
    try:
        document = JsonField(strict_json((place / "samples.json").read_bytes()), source, PreparedError)
        data = (place / "samples.npz").read_bytes()
    except (OSError, ValueError) as error:
        raise PreparedError(f"{source}: {error}", hint=_HINT) from None
    if (version := document.field("format").integer()) != FORMAT:
        raise PreparedError(f"{source}: format {version}, and {FORMAT} is read here", hint=_HINT)
    digests = document.field("sha256").texts()
    if sha256_hex(data) != digests["samples.npz"]:
        raise PreparedError(f"{place / 'samples.npz'} does not match its digest", hint="carry it again")
    kinds = {tensor: field.field("kind").text() for tensor, field in document.field("encodings").fields().items()}
    dtypes = {tensor: field.field("dtype").text() for tensor, field in document.field("encodings").fields().items()}
    arrays = read_npz(data)
    return Prepared(
        name=document.field("recipe").text(),
        bundle=read_bundle(place / "bundle.ewb"),
        metric=document.field("metric").text(),
        samples=Samples(
            {tensor: _decoded(tensor, arrays, kind).astype(dtypes[tensor]) for tensor, kind in kinds.items()},
            arrays.get("labels"),
            _of_side("reference", arrays),
            _of_side("twin", arrays),
        ),
        accuracy=document.field("accuracy").numbers(),
        encodings=kinds,
    )


_HINT = "python -m tests.gpu.prepare FOLDER makes it on a workstation"


def _decoded(name: str, arrays: Mapping[str, Array], kind: str) -> Array:
    if kind == _PALETTE:
        values: Array = arrays[f"palette.{name}"][arrays[f"index.{name}"]]
        return values
    return arrays[f"input.{name}"]


def _of_side(side: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {key.partition(".")[2]: values for key, values in arrays.items() if key.startswith(f"{side}.")}
