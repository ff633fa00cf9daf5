"""Reading the small files of /proc and /sys, any of which may be missing, forbidden or busy."""

from __future__ import annotations

import os
from pathlib import Path


def read_text(path: Path) -> str | None:
    """A file's text without the white space around it; null where it cannot be read, as many are in a container."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """A file's whole number; null where it cannot be read, or holds something else."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def read_resident_bytes(pid: int) -> int | None:
    """How much memory a process has resident now; null where there is no /proc, or no such process."""
    fields = (read_text(Path(f"/proc/{pid}/statm")) or "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None
