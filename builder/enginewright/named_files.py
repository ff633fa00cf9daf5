"""Files that an option of a command names."""

from __future__ import annotations

from pathlib import Path

from enginewright.errors import UsageError
from enginewright_runtime.atomic import write_file

__all__ = ["write_named"]


def write_named(path: Path, data: bytes) -> None:
    """Write the file in one step. Raises UsageError where it cannot be written."""
    try:
        write_file(path, data)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
