"""One process at a time writes a bundle, and finds out before its work whether it may."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginewright_runtime.errors import BundleBusy, BundleError

__all__ = ["only_writer"]


@contextmanager
def only_writer(bundle: Path, output: Path) -> Iterator[None]:
    """Be the only one who compiles `bundle`, for a result in `output`.

    The second of two would overwrite the engine of the first, and both would time their kernels on a GPU that the other
    uses. The lock is on the bundle's own file, so nothing is left beside it, and it ends with the process. Raises
    BundleBusy where another process has it, and BundleError where `output` could not be written in the end.
    """
    if output.is_dir():
        raise BundleError(f"{output}: a folder, and not a file", hint="name a file with --output")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise BundleError(f"{output}: cannot be written", hint="name another file with --output")
    descriptor = _locked(bundle)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; None where there is no such file, which whoever reads it says better."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BundleBusy(
                f"{path}: another process is compiling this bundle", hint="try again when it has ended"
            ) from None
        except OSError:  # a file system without locks: as before there were any
            return descriptor
        # Whoever had it may have put a new file in its place meanwhile.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)
