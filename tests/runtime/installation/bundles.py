"""Bundles to install, and installing them without the seconds of a self-test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.runtime.tiny_bundle import make_bundle, tiny_manifest

from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.installation import Installed
from enginewright_runtime.installation.rehearsal import Rehearsal
from enginewright_runtime.manifest import Manifest


def numbered(folder: Path, sequence: int, **changes: object) -> Path:
    """The tiny bundle with a sequence number, without budgets, and with other changes of its manifest."""
    manifest = Manifest(**{**vars(replace(tiny_manifest(), sequence=sequence, budget={})), **changes})
    return make_bundle(folder / f"{manifest.name}-{sequence}.ewb", manifest=manifest)


def installed(path: Path) -> Installed:
    """How a root calls this bundle."""
    bundle = read_bundle(path)
    return Installed.of(bundle.sha256, bundle.manifest)


def foreign(path: Path, source: Path, **requires: str) -> Path:
    """The bundle `source` for another machine."""
    bundle = read_bundle(source)
    [entry] = bundle.manifest.engines
    other = replace(entry, requires={**entry.requires, **requires})
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(path, replace(bundle.manifest, engines=(other,)), files)
    return path


def alter(path: Path) -> None:
    """Change one byte of a file in place."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def everything(root: Path) -> dict[str, bytes]:
    """Every file of a root with its content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def passes(bundle: object) -> Rehearsal:
    """A self-test that every bundle passes at once."""
    return Rehearsal("")


def fails(bundle: object) -> Rehearsal:
    """A self-test that no bundle passes."""
    return Rehearsal("it is too slow")
