"""A histogram that grows with what it sees, in memory that does not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from enginewright.errors import DataError

__all__ = ["BINS", "Histogram"]

# On each side of zero. As the range is a power of two, more than half of them lie within the largest magnitude: at
# least the 2,048 that Migacz' method was made for.
BINS = 4096
_BLOCK = 1 << 16  # values at a time: what is computed of them stays in the processor's cache
_SMALLEST_EXPONENT = -100  # a tensor whose magnitudes all lie below 2**-100 is a tensor of zeros to int8


class Histogram:
    """Counts of a tensor's values in equal bins from -limit to limit, a power of two that doubles when it must.

    Doubling joins the bins in pairs. All edges are exact in float32, so the counts do not depend on the order or the
    batches in which values come.
    `low`, `high` (exact), `count` and `zeros` (exact zeros; ReLU makes half of all values zero) cover everything seen
    so far.

    >>> seen = Histogram("relu_1")
    >>> seen.update(np.array([0.0, 0.5, 3.0], np.float32))
    >>> seen.low, seen.high, seen.count, seen.zeros, seen.limit
    (0.0, 3.0, 3, 1, 4.0)
    """

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor
        self.low = math.inf
        self.high = -math.inf
        self.count = 0
        self.zeros = 0
        self._exponent = _SMALLEST_EXPONENT
        self._bins = np.zeros(2 * BINS, np.int64)

    @property
    def limit(self) -> float:
        """The upper edge of the last bin; every value seen lies between -limit and limit."""
        return math.ldexp(1.0, self._exponent)

    @property
    def bin_width(self) -> float:
        """The width of a bin, in the tensor's unit."""
        return self.limit / BINS

    @property
    def largest(self) -> float:
        """The largest magnitude seen; 0 before the first value."""
        return max(-self.low, self.high, 0.0) if self.count else 0.0

    def update(self, values: npt.NDArray[np.generic]) -> None:
        """Count all values of an array. Raises DataError, and counts nothing, if one of them is not finite."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int(np.count_nonzero(~np.isfinite(flat)))
            raise DataError(
                f"calibration: tensor '{self.tensor}' holds {bad} values that are not finite (NaN or infinity)",
                hint="look for NaN in the calibration data and in the weights, and for overflow in the layer that makes this tensor",
            )
        # A value equal to the limit has no bin, hence frexp: its exponent is that of the next power of two above.
        largest = max(-low, high)
        self._grow(math.frexp(largest)[1] if largest else _SMALLEST_EXPONENT)
        self._bins += self._counted(flat, signed=low < 0.0)
        self.count += flat.size
        self.low, self.high = min(self.low, low), max(self.high, high)

    @classmethod
    def joined(cls, tensor: str, parts: Iterable[Histogram]) -> Histogram:
        """The histogram of a tensor that holds the values of other tensors and nothing else: the same as from the
        values themselves.
        """
        whole = cls(tensor)
        for part in parts:
            whole._grow(part._exponent)
            whole._bins += _doubled(part._bins, whole._exponent - part._exponent)
            whole.low, whole.high = min(whole.low, part.low), max(whole.high, part.high)
            whole.count += part.count
            whole.zeros += part.zeros
        return whole

    def magnitudes(self) -> npt.NDArray[np.int64]:
        """Counts of |x| in BINS bins of width `bin_width` from 0 to `limit`, exact zeros left out.

        A value on the edge of two bins counts below on the negative side and above on the positive one.
        """
        return self._bins[BINS:] + self._bins[:BINS][::-1]

    def _counted(self, flat: npt.NDArray[np.float32], *, signed: bool) -> npt.NDArray[np.int64]:
        """The counts of new values in the bins, exact zeros left out and added to `zeros`."""
        # Arrays are used again from block to block, and the steps that only negative values need are left out: counting
        # takes a third of the time of calibration.
        bins = np.zeros(2 * BINS, np.int64)
        scaled, index = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int64)
        per_value, middle = np.float32(BINS / self.limit), np.float32(BINS)
        zeros = 0
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            place, number = scaled[: block.size], index[: block.size]
            np.multiply(block, per_value, out=place)
            if signed:
                np.floor(place, out=place)  # towards minus infinity: the conversion to integers goes towards zero
                np.add(place, middle, out=place)
            np.copyto(number, place, casting="unsafe")
            if signed:
                bins += np.bincount(number, minlength=2 * BINS)
            else:
                bins[BINS:] += np.bincount(number, minlength=BINS)
            zeros += int(np.count_nonzero(block == 0.0))
        bins[BINS] -= zeros
        self.zeros += zeros
        return bins

    def _grow(self, exponent: int) -> None:
        if exponent > self._exponent:
            self._bins = _doubled(self._bins, exponent - self._exponent)
            self._exponent = exponent


def _doubled(bins: npt.NDArray[np.int64], times: int) -> npt.NDArray[np.int64]:
    """The counts after the range has doubled so often: pairs of bins are joined, and the outer half is empty."""
    for _ in range(times):
        if not bins.any():
            break
        joined = bins.reshape(-1, 2).sum(axis=1)
        bins = np.zeros(2 * BINS, np.int64)
        bins[BINS // 2 : BINS // 2 + BINS] = joined
    return bins
