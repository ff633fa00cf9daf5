"""A histogram that grows with what it sees, in memory that does not."""

from __future__ import annotations

import math

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
        self._grow(max(-low, high))
        per_value = np.float32(BINS / self.limit)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            place = np.multiply(block, per_value)
            np.floor(place, out=place)
            index = place.astype(np.int64)
            index += BINS
            self._bins += np.bincount(index, minlength=2 * BINS)
        zeros = flat.size - int(np.count_nonzero(flat))
        self._bins[BINS] -= zeros
        self.zeros += zeros
        self.count += flat.size
        self.low, self.high = min(self.low, low), max(self.high, high)

    def magnitudes(self) -> npt.NDArray[np.int64]:
        """Counts of |x| in BINS bins of width `bin_width` from 0 to `limit`, exact zeros left out.

        A value on the edge of two bins counts below on the negative side and above on the positive one.
        """
        return self._bins[BINS:] + self._bins[:BINS][::-1]

    def _grow(self, largest: float) -> None:
        # A value equal to the limit has no bin, hence frexp: its exponent is that of the next power of two above.
        wanted = max(math.frexp(largest)[1] if largest else _SMALLEST_EXPONENT, self._exponent)
        for _ in range(wanted - self._exponent):
            if not self._bins.any():
                break
            joined = self._bins.reshape(-1, 2).sum(axis=1)
            self._bins = np.zeros(2 * BINS, np.int64)
            self._bins[BINS // 2 : BINS // 2 + BINS] = joined
        self._exponent = wanted
