"""The exit codes of every enginewright command, for the builder and the runtime alike."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status means.

    >>> int(ExitCode.INCONCLUSIVE)
    4
    """

    OK = 0
    FAILED = 1  # a budget or the gate failed, or the golden outputs differ
    USAGE = 2  # a bad recipe, target, bundle or input, or wrong usage
    BUG = 3  # our fault
    INCONCLUSIVE = 4  # too little evidence, or this host is unfit
    INTERRUPTED = 130
