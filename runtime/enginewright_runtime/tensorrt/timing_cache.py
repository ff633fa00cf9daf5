"""What TensorRT learned about the speed of its kernels, kept for the next build on the same device with the same version.

It lies in the user's cache folder (XDG_CACHE_HOME, or ENGINEWRIGHT_CACHE), one file a device and version.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from enginewright_runtime.atomic import write_file

__all__ = ["attach", "cache_path", "keep"]


def cache_path(fingerprint: str, *, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the timings for engines of this fingerprint are kept; nothing need be there.

    >>> cache_path("tensorrt-10.3.0-sm87", environment={"ENGINEWRIGHT_CACHE": "/c"})
    PosixPath('/c/tensorrt-10.3.0-sm87.timing')
    """
    home = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = environment.get("ENGINEWRIGHT_CACHE") or str(Path(home) / "enginewright")
    return Path(folder) / f"{fingerprint}.timing"


def attach(config: Any, path: Path) -> bool:
    """Give a builder's configuration the timings at `path`, or none; False where those there are another device's.

    Raises OSError where there is a file that cannot be read, and then the configuration has none either. TensorRT
    itself sees whether they fit the device and the version; those that do not are left out.
    """
    kept = b""
    try:
        with suppress(FileNotFoundError):
            kept = path.read_bytes()
    except OSError:
        config.set_timing_cache(config.create_timing_cache(b""), False)
        raise
    if kept:
        cache = config.create_timing_cache(kept)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return not kept


def keep(config: Any, path: Path) -> None:
    """Write the timings of a build that has ended. Raises OSError."""
    cache = config.get_timing_cache()
    data = b"" if cache is None else bytes(cache.serialize())
    if data:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
