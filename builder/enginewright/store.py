"""The store: content-addressed artifacts and the records of the steps that made them. Crash-safe, shared by builds that
run at once.

    objects/ab/cdef...   one file an artifact, named by the sha256 of its bytes, read-only
    steps/<key>.json     one record a step
    builds/<name>.json   the step keys of the last build of a recipe for a target: what `why` compares with, and what `gc` keeps
    locks/<key>          held while a step runs, so that two builds do not do it twice
    staging/<key>/       what a running step has written so far; swept by the next holder of its lock
    unfinished/<key>/    what a long step needs to go on after an interruption; removed once it is done

A file appears under its name only when it is complete and on disk. A reader never waits.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from enginewright.errors import NoSpace, StoreError
from enginewright.record import Artifact, Record
from enginewright_runtime.atomic import sync_folder, write_file
from enginewright_runtime.canonical import sha256_file

__all__ = ["Store", "Swept"]

_STORE_LOCK = "store"


@dataclass(frozen=True)
class Swept:
    """What `Store.sweep` removed."""

    records: int
    objects: int
    freed_bytes: int


class Store:
    """A store in `root`, made on first write.

    Raises StoreError where the folder cannot be read or written, NoSpace where the disk is full.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def object_path(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest[2:]

    def staging(self, key: str) -> Path:
        return self.root / "staging" / key

    def unfinished(self, key: str) -> Path:
        return self.root / "unfinished" / key

    def damage(self, artifact: Artifact) -> str:
        """Why an artifact cannot be used ("is missing", "is damaged"), or "" where its bytes are those that were
        recorded.
        """
        path = self.object_path(artifact.digest)
        try:
            if sha256_file(path) == artifact.digest:
                return ""
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            raise _cannot_read(path, error) from error
        return "is damaged (its bytes do not have the recorded digest)"

    def record(self, key: str) -> Record | None:
        """The record of a step, or None where there is none, or none that can be trusted (the step then runs again)."""
        path = self.root / "steps" / f"{key}.json"
        try:
            record = Record.from_bytes(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, StoreError):
            return None
        except OSError as error:
            raise _cannot_read(path, error) from error
        return record if record.key == key else None

    def add(self, path: Path, *, kind: str) -> Artifact:
        """Move a finished file from the staging area into the store. The file is on disk before it has its name."""
        with self.writing():
            digest, size = sha256_file(path), path.stat().st_size
            artifact = Artifact(digest, kind, size)
            target = self.object_path(digest)
            if target.exists() and not self.damage(artifact):
                path.unlink()
                return artifact
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o444)
            path.replace(target)
            sync_folder(target.parent)
            return artifact

    def write_record(self, record: Record) -> None:
        with self.writing():
            folder = self.root / "steps"
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / f"{record.key}.json", record.to_bytes())

    def last_build(self, name: str) -> Mapping[str, str]:
        """Step name -> key of the last build called `name`; empty where there was none."""
        path = self.root / "builds" / f"{name}.json"
        try:
            keys = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            return {}
        except OSError as error:
            raise _cannot_read(path, error) from error
        return {str(step): str(key) for step, key in keys.items()} if isinstance(keys, dict) else {}

    def note_build(self, name: str, keys: Mapping[str, str]) -> None:
        """Remember the keys of a build. Writes nothing where nothing changed, so that a no-op build works on a
        read-only store.
        """
        if self.last_build(name) == dict(keys):
            return
        with self.writing():
            folder = self.root / "builds"
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / f"{name}.json", (json.dumps(dict(keys), indent=1) + "\n").encode())

    @contextmanager
    def lock(self, key: str, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock of one step. Calls `on_wait` once when somebody else holds it. The lock goes with its process,
        however that ends.
        """
        with self._locked(key, fcntl.LOCK_EX, on_wait):
            shutil.rmtree(self.staging(key), ignore_errors=True)
            try:
                yield
            finally:
                shutil.rmtree(self.staging(key), ignore_errors=True)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Held by every build, so that `sweep` does not take what a running build has just made."""
        with self._locked(_STORE_LOCK, fcntl.LOCK_SH, None):
            yield

    def sweep(self, *, on_wait: Callable[[], None] | None = None) -> Swept:
        """Remove every record that is not of some recipe's last build, and every object that no remaining record names.

        Waits for running builds, and calls `on_wait` once where it has to: what they finish is kept.
        """
        with self._locked(_STORE_LOCK, fcntl.LOCK_EX, on_wait), self.writing():
            keep = {key for keys in self.builds().values() for key in keys.values()}
            records = 0
            used: set[str] = set()
            for path in sorted((self.root / "steps").glob("*.json")):
                record = self.record(path.stem) if path.stem in keep else None
                if record is None:
                    path.unlink()
                    records += 1
                else:
                    used.update(artifact.digest for artifact in record.outputs.values())
            objects, freed = 0, 0
            for path in sorted((self.root / "objects").glob("*/*")):
                if path.parent.name + path.name not in used and not path.is_dir():
                    freed += path.stat().st_size
                    objects += 1
                    path.unlink()
            for folder in ("steps", "builds"):  # a write that was killed
                for path in (self.root / folder).glob(".*.partial"):
                    path.unlink()
            for path in (self.root / "locks").glob("*"):
                if path.name != _STORE_LOCK:  # nobody can hold another: every build holds the store's own lock first
                    path.unlink()
            for folder in ("staging", "unfinished"):
                shutil.rmtree(self.root / folder, ignore_errors=True)
            return Swept(records, objects, freed)

    def builds(self) -> Mapping[str, Mapping[str, str]]:
        """The last builds, by name."""
        return {path.stem: self.last_build(path.stem) for path in sorted((self.root / "builds").glob("*.json"))}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the operating system's refusals into errors that say what to do."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(
                    f"no space left on the disk of the store {self.root}",
                    hint="free some space (enginewright gc removes what no build uses) and build again: finished steps are kept",
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StoreError(
                    f"the store {self.root} cannot be written: {error.strerror}",
                    hint="make it writable, or name another folder with ENGINEWRIGHT_STORE",
                ) from error
            raise StoreError(
                f"the store {self.root} cannot be used: {error.filename or 'it'}: {error.strerror}",
                hint=f"move away what is there, or name another folder with ENGINEWRIGHT_STORE, which is now {self.root}",
            ) from error

    @contextmanager
    def _locked(self, name: str, mode: int, on_wait: Callable[[], None] | None) -> Iterator[None]:
        with self.writing():
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                fcntl.flock(descriptor, mode)
            yield
        finally:
            with suppress(OSError):
                os.close(descriptor)


def _cannot_read(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot read {path}: {error.strerror}", hint="check the disk and the permissions, or remove it and build again"
    )
