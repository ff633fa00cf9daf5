"""Trees of /proc and /sys for the tests, one file a device in trees/, a line a file.

They are written as `cd / && grep -sH . FILES` prints them, so that a tree of a real device can take the place of one
that was put together from the vendor's documentation, as these were.
"""

from __future__ import annotations

from pathlib import Path

_TREES = Path(__file__).parent / "trees"


def device_tree(name: str, root: Path) -> Path:
    """Lay the files of a device out under `root`."""
    for line in (_TREES / f"{name}.txt").read_text().splitlines():
        path, _, content = line.partition(":")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")
    return root
