"""Verify, run and measure enginewright bundles.

>>> import enginewright_runtime
>>> with enginewright_runtime.open("signs-cpu.ewb") as session:  # doctest: +SKIP
...     outputs = session.run({"image": image})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enginewright_runtime.errors import (
    BackendMissing,
    BundleBusy,
    BundleError,
    EngineError,
    EnginewrightError,
    InputError,
    InstallationBusy,
    InstallationError,
    ManifestError,
    MeasurementError,
    NoEngineFits,
    NotEnoughSamples,
    SelfTestFailed,
    SignatureError,
    UsageError,
)

if TYPE_CHECKING:
    from enginewright_runtime.installation import open_installed
    from enginewright_runtime.session import Session, open

__version__ = "0.1.0"

__all__ = [
    "BackendMissing",
    "BundleBusy",
    "BundleError",
    "EngineError",
    "EnginewrightError",
    "InputError",
    "InstallationBusy",
    "InstallationError",
    "ManifestError",
    "MeasurementError",
    "NoEngineFits",
    "NotEnoughSamples",
    "SelfTestFailed",
    "Session",
    "SignatureError",
    "UsageError",
    "__version__",
    "open",
    "open_installed",
]


def __getattr__(name: str) -> Any:
    """What opens engines brings numpy along, and whoever wants only a digest or a host's facts does without."""
    if name in ("Session", "open"):
        from enginewright_runtime import session

        return getattr(session, name)
    if name == "open_installed":
        from enginewright_runtime import installation

        return installation.open_installed
    raise AttributeError(f"module 'enginewright_runtime' has no attribute {name!r}")
