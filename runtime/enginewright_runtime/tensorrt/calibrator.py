"""int8 without Q/DQ pairs, from a calibration cache: what a DLA takes up to TensorRT 10.

The cache holds the same scales that the pairs would have (TensorRT's own text form). It is read, and nothing is calibrated.
"""

from __future__ import annotations

import re
from typing import Any

from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt.library import Library

__all__ = ["calibrator", "version_number"]

_FIRST_LINE = re.compile(rb"TRT-\d+(-EntropyCalibration2\r?\n)")


def calibrator(library: Library, cache: bytes) -> Any:
    """What gives TensorRT the scales of `cache`. The caller keeps it alive while TensorRT builds.

    The first line of a cache names the version that wrote it, and TensorRT passes over that of another: it gets its
    own. Raises EngineError where this is no such cache, and where the version has no calibrators.
    """
    if not _FIRST_LINE.match(cache):
        raise EngineError("the calibration cache does not begin as TensorRT's do", hint="build the bundle again")
    base = getattr(library.trt, "IInt8EntropyCalibrator2", None)
    if base is None:
        raise EngineError(f"{library.kind.title} {library.version} takes no calibration cache")
    ours = _FIRST_LINE.sub(rb"TRT-" + version_number(library.version).encode() + rb"\1", cache, count=1)

    class Calibrator(base):  # type: ignore[misc, valid-type]  # the bindings carry no types
        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            """There are no samples: everything is in the cache."""

        def read_calibration_cache(self) -> bytes:
            return ours

        def write_calibration_cache(self, cache: Any) -> None:
            """Nothing was calibrated."""

    return Calibrator()


def version_number(version: str) -> str:
    """A version as TensorRT writes it in a calibration cache: 8.6.1 is 8601, and from 10 on 10.3.0 is 100300.

    >>> version_number("8.6.1"), version_number("10.3.0")
    ('8601', '100300')
    """
    major, minor, patch = (int(part) for part in [*version.split("."), "0", "0"][:3])
    return str(major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch)
