"""Where bundles are installed: a folder with one file that says everything, and the bundles that it names.

::

    ROOT/installed.json          which bundle is current, which was before, and which were refused
    ROOT/slots/<sha256>.ewb      the bundles, under names that only their content decides
    ROOT/lock                    held by whoever changes anything

Only replacing installed.json changes what an application opens, and a file is replaced whole or not at all. Files in
slots/ that it does not name are what an installer left that was killed, and the next one removes them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from enginewright_runtime.atomic import sync_folder, write_file
from enginewright_runtime.canonical import Json, canonical_bytes, strict_json
from enginewright_runtime.errors import InstallationBusy, InstallationError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.manifest import Manifest

FORMAT = 1  # 1: the first
_STATE = "installed.json"
_MOST_REFUSED = 100  # the oldest are forgotten: a vehicle meets a few in its life
_DIGEST = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class Installed:
    """A bundle of a root, by what its manifest says and the sha256 that it ends with."""

    sha256: str
    name: str
    target: str
    sequence: int

    @classmethod
    def of(cls, sha256: str, manifest: Manifest) -> Installed:
        """The bundle with this digest and manifest."""
        return cls(sha256, manifest.name, manifest.target, manifest.sequence)

    def __str__(self) -> str:
        numbered = f", sequence {self.sequence}" if self.sequence else ""
        return f"{self.name} for {self.target}{numbered}, sha256 {self.sha256}"

    def to_json(self) -> dict[str, Json]:
        """The bundle as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, field: JsonField) -> Installed:
        """Read what `to_json` wrote."""
        return cls(
            sha256=field.field("sha256").text(pattern=_DIGEST, rule="must be 64 lower-case hexadecimal digits"),
            name=field.field("name").text(),
            target=field.field("target").text(),
            sequence=field.field("sequence").integer(),
        )


@dataclass(frozen=True)
class Refused:
    """A bundle that is not to be installed again, and why."""

    bundle: Installed
    reason: str

    def to_json(self) -> dict[str, Json]:
        """The bundle and the reason as a JSON object."""
        return {**self.bundle.to_json(), "reason": self.reason}


@dataclass(frozen=True)
class State:
    """What installed.json says. Nothing is installed where `current` is None."""

    current: Installed | None = None
    previous: Installed | None = None
    refused: tuple[Refused, ...] = ()

    @property
    def kept(self) -> tuple[Installed, ...]:
        """The bundles that have a slot."""
        return tuple(bundle for bundle in (self.current, self.previous) if bundle is not None)

    def why_refused(self, sha256: str) -> str:
        """Why that bundle is not to be installed again; empty where it may be."""
        return next((one.reason for one in self.refused if one.bundle.sha256 == sha256), "")

    def refusing(self, bundle: Installed, reason: str) -> State:
        """The same with one more bundle that is refused."""
        others = self.accepting(bundle.sha256).refused
        return replace(self, refused=(*others, Refused(bundle, reason))[-_MOST_REFUSED:])

    def accepting(self, sha256: str) -> State:
        """The same without a refusal of that bundle."""
        return replace(self, refused=tuple(one for one in self.refused if one.bundle.sha256 != sha256))

    def to_json(self) -> dict[str, Json]:
        """The state as a JSON object."""
        return {
            "format": FORMAT,
            "current": self.current.to_json() if self.current else None,
            "previous": self.previous.to_json() if self.previous else None,
            "refused": [one.to_json() for one in self.refused],
        }


class Root:
    """One folder where bundles of one network are installed. Nothing is created until something is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._slots = path / "slots"
        self._state = path / _STATE

    def slot(self, bundle: Installed) -> Path:
        """The file of a bundle that is kept here."""
        return self._slots / f"{bundle.sha256}.ewb"

    def read(self) -> State:
        """What is installed; raises InstallationError where that cannot be read."""
        try:
            data = self._state.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise InstallationError(f"{self._state}: cannot be read: {error.strerror}") from None
        try:
            return _state(JsonField(strict_json(data), str(self._state), InstallationError))
        except ValueError as error:
            hint = f"remove {self._state} and install a bundle again"
            raise InstallationError(f"{self._state}: not valid JSON: {error}", hint=hint) from None

    def write(self, state: State) -> None:
        """Make this what is installed, in one step. Raises OSError."""
        write_file(self._state, canonical_bytes(state.to_json()) + b"\n")

    def store(self, bundle: Installed, data: memoryview) -> None:
        """Put a bundle into its slot, whole and durable. Raises OSError."""
        self._slots.mkdir(exist_ok=True)
        sync_folder(self.path)
        write_file(self.slot(bundle), data)

    def clean(self, state: State) -> None:
        """Remove what the state does not name and what a killed installer left. Raises OSError."""
        kept = {self.slot(bundle) for bundle in state.kept}
        leftovers = [path for path in self._slots.glob("*") if path not in kept]
        leftovers += self.path.glob(f".{_STATE}.*.partial")
        for path in leftovers:
            path.unlink()

    def free_bytes(self) -> int:
        """How much more may be written here."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who changes this root; it is created where it is not there.

        Raises InstallationBusy where another one is at it. The lock ends with the process that holds it.
        """
        with self.writing():
            self._create()
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InstallationBusy(
                    f"{self.path}: another process is installing here", hint="try again when it has ended"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def _create(self) -> None:
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in created:
            sync_folder(folder.parent)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an OSError into an InstallationError that says what to do."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "free some space there; what was installed still is" if full else ""
            raise InstallationError(f"{self.path}: cannot be written: {error.strerror}", hint=hint) from error


def _state(document: JsonField) -> State:
    if (version := document.field("format").integer(least=1)) > FORMAT:
        raise InstallationError(
            f"{_STATE}: format {version} is newer than this runtime reads (format {FORMAT})",
            hint="pip install --upgrade enginewright-runtime",
        )
    current, previous = (
        None if document.field(key).value is None else Installed.from_json(document.field(key))
        for key in ("current", "previous")
    )
    refused = tuple(
        Refused(Installed.from_json(item), item.field("reason").text(longest=10_000))
        for item in document.field("refused").items()
    )
    return State(current, previous, refused)
