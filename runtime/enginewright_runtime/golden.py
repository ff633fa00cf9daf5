"""The golden inputs of a bundle, the outputs that are expected for them, and how far a machine may be off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from enginewright_runtime.backends import Array
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.errors import BundleError
from enginewright_runtime.manifest import TensorSpec
from enginewright_runtime.npz import read_npz, write_npz

GOLDEN_NAME = "golden.npz"


@dataclass(frozen=True)
class OutputAgreement:
    """How one output compares with the golden one. The difference is infinite where the shapes differ or a NaN came."""

    name: str
    largest_difference: float
    tolerance: float
    agrees: bool


@dataclass(frozen=True)
class Golden:
    """Inputs, expected outputs and absolute tolerances (broadcast over the output), each by the tensor's name."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerances: Mapping[str, Array]

    def to_bytes(self) -> bytes:
        """The arrays as an npz file; the same arrays always make the same bytes."""
        groups = {"input": self.inputs, "output": self.outputs, "tolerance": self.tolerances}
        arrays = {f"{kind}.{name}": array for kind, group in groups.items() for name, array in sorted(group.items())}
        return write_npz(arrays)

    def compare(self, outputs: Mapping[str, Array]) -> tuple[OutputAgreement, ...]:
        """Each golden output against the one that came; an output that is missing disagrees."""
        return tuple(
            _compare(name, expected, outputs.get(name), self.tolerances[name])
            for name, expected in self.outputs.items()
        )


def golden_from_bytes(data: bytes, *, source: str = GOLDEN_NAME) -> Golden:
    """Read what `Golden.to_bytes` wrote; BundleError names `source` and what is wrong."""
    try:
        arrays = read_npz(data)
    except ValueError as error:
        raise BundleError(f"{source}: {error}") from None
    groups: dict[str, dict[str, Array]] = {"input": {}, "output": {}, "tolerance": {}}
    for key, array in arrays.items():
        kind, _, name = key.partition(".")
        if kind in groups:
            groups[kind][name] = array
    golden = Golden(groups["input"], groups["output"], groups["tolerance"])
    for name, expected in golden.outputs.items():
        if name not in golden.tolerances:
            raise BundleError(f"{source}: there is no array 'tolerance.{name}'")
        if expected.dtype.kind not in "biuf":
            raise BundleError(f"{source}: 'output.{name}' must hold numbers, got {expected.dtype}")
        _check_tolerance(name, expected, golden.tolerances[name], source)
    return golden


def read_golden(bundle: Bundle) -> Golden:
    """The golden arrays of a bundle; BundleError where they are missing, broken, or not those of its manifest."""
    source = f"{bundle.path}: {GOLDEN_NAME}"
    golden = golden_from_bytes(bundle.read(GOLDEN_NAME), source=source)
    for kind, specs, arrays in (
        ("input", bundle.manifest.inputs, golden.inputs),
        ("output", bundle.manifest.outputs, golden.outputs),
    ):
        wanted = sorted(spec.name for spec in specs)
        if sorted(arrays) != wanted:
            raise BundleError(f"{source}: it has the {kind}s {sorted(arrays)}, and the manifest declares {wanted}")
    return golden


def one_sample(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The inputs at a batch of one where the batch is free, as a camera gives them: what a latency is measured on."""
    free = {spec.name for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    return {name: array[:1] if name in free else array for name, array in inputs.items()}


def _check_tolerance(name: str, expected: Array, tolerance: Array, source: str) -> None:
    try:
        fits = np.broadcast_shapes(expected.shape, tolerance.shape) == expected.shape
    except ValueError:
        fits = False
    if not fits or tolerance.dtype.kind not in "fiu" or not np.all(tolerance.astype(np.float64) >= 0):
        raise BundleError(f"{source}: 'tolerance.{name}' must hold numbers from 0 that broadcast to 'output.{name}'")


def _compare(name: str, expected: Array, came: Array | None, tolerance: Array) -> OutputAgreement:
    largest = float(np.max(tolerance, initial=0.0))
    if came is None or came.shape != expected.shape:
        return OutputAgreement(name, float("inf"), largest, agrees=False)
    difference = np.abs(came.astype(np.float64) - expected.astype(np.float64))
    difference = np.where(np.isnan(difference), np.inf, difference)
    agrees = bool(np.all(difference <= tolerance))
    return OutputAgreement(name, float(np.max(difference, initial=0.0)), largest, agrees)
