"""TensorRT's calibration cache, written from the same scales: what a DLA up to TensorRT 10 wants in place of Q/DQ pairs.

The form is TensorRT's own: a line with version and algorithm, then a line for each tensor with its name and the scale
(largest magnitude / 127) as the hexadecimal digits of a big-endian float32. A name may hold colons: the last one counts.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from enginewright.errors import DataError
from enginewright.graph.ranges import Scales
from enginewright_runtime.tensorrt.calibrator import version_number

__all__ = ["calibration_cache", "read_calibration_cache"]

_LARGEST = 127.0
_FIRST_LINE = re.compile(r"TRT-\d+-EntropyCalibration2")


def calibration_cache(scales: Scales, *, tensorrt: str) -> str:
    """The text of the cache for that version of TensorRT, such as "10.3.0": every tensor of the scales, symmetric.

    Raises DataError where a tensor's name has a line break, which the form cannot hold.

    >>> from enginewright.graph.ranges import Range
    >>> print(calibration_cache(Scales("minmax", 8, {"image": Range(-1.0, 0.5)}), tensorrt="8.6.2"), end="")
    TRT-8602-EntropyCalibration2
    image: 3c010204
    """
    lines = [f"TRT-{version_number(tensorrt)}-EntropyCalibration2"]
    for tensor, found in scales.ranges.items():
        if "\n" in tensor or "\r" in tensor:
            raise DataError(
                f"the tensor {tensor!r} has a line break in its name, which a calibration cache cannot hold"
            )
        largest = max(abs(found.low), abs(found.high))
        lines.append(f"{tensor}: {struct.pack('>f', largest / _LARGEST).hex()}")
    return "\n".join(lines) + "\n"


def read_calibration_cache(text: str) -> Mapping[str, float]:
    """The scale of each tensor of a cache. Raises DataError with the line that is wrong."""
    first, *rest = text.splitlines() or [""]
    if not _FIRST_LINE.fullmatch(first):
        raise DataError(f"this is no calibration cache of TensorRT: it begins with {first[:60]!r}")
    scales = {}
    for number, line in enumerate(rest, 2):
        tensor, colon, digits = line.rpartition(": ")
        if not colon or not re.fullmatch(r"[0-9a-f]{8}", digits):
            raise DataError(
                f"line {number} of the calibration cache is no name with eight hexadecimal digits: {line[:60]!r}"
            )
        scales[tensor] = struct.unpack(">f", bytes.fromhex(digits))[0]
    return scales
