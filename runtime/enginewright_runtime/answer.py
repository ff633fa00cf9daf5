"""What a command found, for the command line to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginewright_runtime.canonical import Json
from enginewright_runtime.exit_codes import ExitCode


@dataclass(frozen=True)
class Answer:
    """What a command found: its exit code, the object for --json, and the lines for people."""

    code: ExitCode
    json: dict[str, Json]
    lines: Sequence[str]
