"""Verify, run and measure enginewright bundles.

>>> import enginewright_runtime
>>> with enginewright_runtime.open("signs-cpu.ewb") as session:  # doctest: +SKIP
...     outputs = session.run({"image": image})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enginewright_runtime.errors import (
    BackendMissing,
    BundleError,
    EngineError,
    EnginewrightError,
    InputError,
    ManifestError,
    MeasurementError,
    NoEngineFits,
    NotEnoughSamples,
    UsageError,
)

if TYPE_CHECKING:
    from enginewright_runtime.session import Session, open

__version__ = "0.1.0"

__all__ = [
    "BackendMissing",
    "BundleError",
    "EngineError",
    "EnginewrightError",
    "InputError",
    "ManifestError",
    "MeasurementError",
    "NoEngineFits",
    "NotEnoughSamples",
    "Session",
    "UsageError",
    "__version__",
    "open",
]


def __getattr__(name: str) -> Any:
    """`open` and `Session` bring numpy with them, and whoever wants only a digest or a host's facts does without."""
    if name in ("Session", "open"):
        from enginewright_runtime import session

        return getattr(session, name)
    raise AttributeError(f"module 'enginewright_runtime' has no attribute {name!r}")
