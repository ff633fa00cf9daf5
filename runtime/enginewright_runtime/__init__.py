"""Verify, run and measure enginewright bundles.

>>> import enginewright_runtime
>>> with enginewright_runtime.open("signs-cpu.ewb") as session:  # doctest: +SKIP
...     outputs = session.run({"image": image})
"""

from __future__ import annotations

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
)
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
    "__version__",
    "open",
]
