"""Every error that the builder raises on purpose; those of the runtime are in `enginewright_runtime.errors`.

::

    EnginewrightError           (of the runtime: message, hint, exit_code)
    ├── FileError               a file that the user wrote is wrong: carries `problems`, one for each fault
    │   ├── RecipeError
    │   └── TargetError
    ├── UsageError              the command line asks for what is not there
    ├── UserCodeError           the user's factory raised: carries the `traceback` of their code
    ├── DataError               data or weights are missing, broken, NaN or too few
    ├── StepFailed              a step could not do what was asked, or its process died
    │   └── StepCrashed         an exception that nobody foresaw: our bug, with its `traceback`
    └── StoreError              the store cannot be read or written
        └── NoSpace             the disk is full

Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.exit_codes import ExitCode

__all__ = [
    "DataError",
    "EnginewrightError",
    "FileError",
    "NoSpace",
    "Problem",
    "RecipeError",
    "StepCrashed",
    "StepFailed",
    "StoreError",
    "TargetError",
    "UsageError",
    "UserCodeError",
    "did_you_mean",
    "listed",
    "nearest",
]


@dataclass(frozen=True)
class Problem:
    """One fault in a file that the user wrote. `line` counts from 1; None is the file as a whole.

    >>> str(Problem("recipes/signs.yaml", 14, "compress[0].prune.macs must be between 0.05 and 0.95, got 1.4"))
    'recipes/signs.yaml:14: compress[0].prune.macs must be between 0.05 and 0.95, got 1.4'
    """

    file: str
    line: int | None
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}: {self.sentence}" if self.line is None else f"{self.file}:{self.line}: {self.sentence}"


class FileError(EnginewrightError):
    """A file that the user wrote is wrong. `problems` holds every fault that was found, in the order of their lines."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: Sequence[Problem], *, hint: str = "") -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(str(problem) for problem in self.problems), hint=hint)


class RecipeError(FileError):
    """The recipe breaks a rule of the recipe language, or its template does not render."""


class TargetError(FileError):
    """The description of a target breaks a rule."""


class UsageError(EnginewrightError):
    """The command line asks for something that is not there or does not fit together."""

    exit_code = ExitCode.USAGE


class UserCodeError(EnginewrightError):
    """Code of the recipe (a factory, a data set, a metric) raised. `traceback` is the text of their traceback."""

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, *, traceback: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback


class DataError(EnginewrightError):
    """Data or weights are missing, unreadable, not finite, or too few."""

    exit_code = ExitCode.USAGE


class StepFailed(EnginewrightError):
    """A step could not do what the recipe asks, or its process died. `traceback` may hold where."""

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, *, traceback: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback


class StepCrashed(StepFailed):
    """A step ended with an exception that nobody foresaw: a bug of ours. `traceback` says where."""

    exit_code = ExitCode.BUG


class StoreError(EnginewrightError):
    """The store cannot be read or written."""

    exit_code = ExitCode.USAGE


class NoSpace(StoreError):
    """The disk is full. What was half written is gone; what was complete is still there."""


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "Known") -> str:
    """The sentence that leads from a name that does not exist to one that does: the nearest, or else all of them.

    >>> did_you_mean("calibraton", ["calibration", "keep_float"])
    "Did you mean 'calibration'?"
    >>> did_you_mean("width", ["calibration", "keep_float"], otherwise="The keys here are")
    'The keys here are: calibration and keep_float.'
    """
    names = list(known)
    near = nearest(name, names)
    return f"{otherwise}: {listed(names)}." if near is None else f"Did you mean '{near}'?"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, where one is.

    >>> nearest("calibraton", ["calibration", "keep_float"])
    'calibration'
    """
    return next(iter(difflib.get_close_matches(name.lower(), list(known), n=1)), None)


def listed(names: Iterable[str], *, last: str = "and") -> str:
    """Names as a reader would list them.

    >>> listed(["prune", "recover", "quantize"], last="or")
    'prune, recover or quantize'
    """
    *first, final = list(names) or ["none"]
    return f"{', '.join(first)} {last} {final}" if first else final
