"""Every error that the runtime raises on purpose.

::

    EnginewrightError
    ├── BundleError             not a bundle, cut short, or altered
    │   ├── ManifestError       the bundle's manifest breaks a rule
    │   ├── BundleBusy          another process is compiling the bundle
    │   └── SignatureError      the bundle is not signed by the key that is required, or a key cannot be used
    ├── NoEngineFits            no engine of the bundle runs on this machine
    ├── UsageError              options that do not go together
    ├── InputError              wrong input names, shapes or dtypes
    ├── BackendMissing          the library that runs the engine is not installed
    ├── EngineError             a backend refused to compile, open or run an engine
    ├── InstallationError       a bundle cannot be installed here, or what is installed cannot be read
    │   ├── SelfTestFailed      the bundle was tried on this machine and failed
    │   └── InstallationBusy    another process is installing in the same place
    ├── NotEnoughSamples        the samples cannot carry the statistic that was asked for
    └── MeasurementError        a measurement could not be taken or read

Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from typing import ClassVar

from enginewright_runtime.exit_codes import ExitCode


class EnginewrightError(Exception):
    """A mistake or a misfortune that has a name: what happened, where, and how to mend it.

    >>> print(EnginewrightError("x.npz has no array 'image'", hint="name the arrays after the inputs"))
    x.npz has no array 'image'
      fix: name the arrays after the inputs
    """

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.hint}" if self.hint else self.message


class BundleError(EnginewrightError):
    """The file is not a bundle, was cut short, or was altered. Nothing of it was used."""


class ManifestError(BundleError):
    """The bundle's manifest breaks a rule of its format."""


class BundleBusy(BundleError):
    """Another process is compiling the bundle."""

    exit_code = ExitCode.INCONCLUSIVE


class SignatureError(BundleError):
    """The bundle is not signed by the key that is required, or a key or the library for it is missing."""


class NoEngineFits(EnginewrightError):
    """No engine of the bundle runs on this machine; the message gives the reason for each."""

    exit_code = ExitCode.INCONCLUSIVE


class UsageError(EnginewrightError):
    """The command line asks for what does not go together."""


class InputError(EnginewrightError):
    """The inputs have the wrong names, shapes or dtypes; the message says what was expected and what came."""


class BackendMissing(EnginewrightError):
    """The library that runs this kind of engine is not installed; the hint names the extra to install."""


class EngineError(EnginewrightError):
    """A backend refused to compile, open or run an engine; the message keeps the backend's own words."""


class InstallationError(EnginewrightError):
    """A bundle cannot be installed here, or what is installed cannot be read. What was installed still is."""


class SelfTestFailed(InstallationError):
    """A bundle was tried on this machine and failed; the message says how. What was installed still is."""

    exit_code = ExitCode.FAILED


class InstallationBusy(InstallationError):
    """Another process is installing in the same place."""

    exit_code = ExitCode.INCONCLUSIVE


class NotEnoughSamples(EnginewrightError):
    """The samples cannot carry the statistic that was asked for."""

    exit_code = ExitCode.INCONCLUSIVE


class MeasurementError(EnginewrightError):
    """A measurement could not be taken, or a measurement file could not be read."""

    exit_code = ExitCode.INCONCLUSIVE
