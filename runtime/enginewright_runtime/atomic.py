"""Writing a file so that a reader, a crash or a full disk never sees half of it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Put `data` at `path`, whole and durable, or leave what was there before.

    The bytes go to a new file beside `path`, are flushed to the disk, take the name in one step, and then the folder
    is flushed, so that the name survives a power cut too. A failure (no space, no permission) raises OSError and
    leaves nothing behind.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename or a removal in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
