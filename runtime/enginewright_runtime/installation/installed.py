"""Reading what is installed. No lock is taken: a vehicle's applications may read while an installer works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.errors import BundleError, EnginewrightError, InstallationError
from enginewright_runtime.installation.root import Installed, Root
from enginewright_runtime.session import Session, fitting_engine, open_bundle

_TRIES = 5  # an installer that ends meanwhile removes the bundle that was read about, and it cannot do so often


@dataclass(frozen=True)
class Health:
    """One installed bundle as it is now. `fault` says what is wrong with its file, `misfit` why it does not run here;
    both are empty where all is well.
    """

    bundle: Installed
    path: Path
    fault: str
    misfit: str


def open_installed(root: str | Path, *, require_key: str | Path | None = None) -> Session:
    """Verify the bundle that is current in `root`, and open it; see `enginewright_runtime.open`.

    Raises InstallationError where nothing is installed, BundleError where what is installed was altered.
    """
    return open_bundle(read_installed(root, require_key=require_key))


def read_installed(root: str | Path, *, require_key: str | Path | None = None) -> Bundle:
    """Read and verify the bundle that is current in `root`; see `open_installed`."""
    place = Root(Path(root))
    for _ in range(_TRIES):
        current = place.read().current
        if current is None:
            raise InstallationError(
                f"{place.path}: nothing is installed there", hint="enginewright-runtime install BUNDLE --root DIR"
            )
        try:
            return read_kept(place, current, require_key=require_key)
        except BundleError:
            if place.read().current == current:
                raise
    raise InstallationError(f"{place.path}: what is current changed {_TRIES} times while it was being opened")


def read_kept(root: Root, bundle: Installed, *, require_key: str | Path | None) -> Bundle:
    """Read and verify a bundle that `root` keeps; BundleError where its file is another one, altered or gone."""
    found = read_bundle(root.slot(bundle), require_key=require_key)
    if found.sha256 != bundle.sha256:
        raise BundleError(f"{found.path}: another bundle stands there: its sha256 is {found.sha256}")
    return found


def health(root: Root, bundle: Installed, *, require_key: str | Path | None = None) -> Health:
    """Verify a bundle that `root` keeps, and see whether it runs here."""
    path = root.slot(bundle)
    try:
        found = read_kept(root, bundle, require_key=require_key)
    except BundleError as error:
        return Health(bundle, path, error.message, "")
    try:
        fitting_engine(found)
    except EnginewrightError as error:
        return Health(bundle, path, "", error.message)
    return Health(bundle, path, "", "")
