"""Bundles (.ewb): writing them, and verifying every byte before anything in them is used.

A bundle is a zip of stored (uncompressed) entries: manifest.json first, the other files sorted by name, every date
and attribute fixed. Its comment is ``enginewright sha256 <64 digits>``, the digest of every byte of the file before
the comment's text. There is exactly one byte string for a manifest and its files, so the reader demands it, and
nothing can hide in a bundle. A signature may follow (enginewright_runtime.signing); it is no part of the bundle's
identity, and where a key is required, it is checked before anything else is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from enginewright_runtime.atomic import write_file
from enginewright_runtime.canonical import sha256_hex
from enginewright_runtime.errors import BundleError
from enginewright_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest
from enginewright_runtime.signing import LINE_BYTES, check, key_name, sign, split
from enginewright_runtime.stored_zip import LARGEST_BYTES, MOST_FILES, decode, encode

_COMMENT = b"enginewright sha256 "
_COMMENT_BYTES = len(_COMMENT) + 64


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified, held in memory: what was verified is what is read.

    `data` is the whole file, and `signed_by` the name of the key that its signature claims, "" without one. The claim
    is true where the bundle was read with that key required.
    """

    path: Path
    manifest: Manifest
    sha256: str
    contents: Mapping[str, memoryview]
    data: memoryview
    signed_by: str = ""

    def read(self, name: str) -> bytes:
        """The bytes of one file; a name that the manifest does not list raises BundleError."""
        if name not in self.contents:
            raise BundleError(f"{self.path}: there is no {name} in this bundle")
        return bytes(self.contents[name])


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle in one step and return its manifest, with `files` filled in from the bytes given.

    The same manifest and files always make the same bytes. What a reader would refuse is refused here (BundleError,
    ManifestError), and then nothing is written.
    """
    entries = {name: FileEntry(sha256_hex(data), len(data)) for name, data in sorted(files.items())}
    whole = replace(manifest, files=entries)
    raw_manifest = whole.to_bytes()
    parse_manifest(raw_manifest)
    if len(files) >= MOST_FILES:
        raise BundleError(f"{path}: {len(files)} files, and a bundle holds fewer than {MOST_FILES}")
    largest = LARGEST_BYTES - len(raw_manifest) - MOST_FILES * 1_000  # room for the zip's own records
    if (size := sum(map(len, files.values()))) > largest:
        raise BundleError(f"{path}: {size} bytes of files, and a bundle holds at most {largest}")
    body = b"".join(encode([(MANIFEST_NAME, raw_manifest), *sorted(files.items())], comment_bytes=_COMMENT_BYTES))
    write_file(path, body + _COMMENT + sha256_hex(body).encode("ascii"))
    return whole


def read_bundle(path: Path, *, require_key: str | Path | None = None) -> Bundle:
    """Read a bundle and verify all of it: every byte, every name, every digest.

    `require_key` is the file of a public key: a bundle that it did not sign is refused before anything else in it is
    looked at. Raises BundleError (or ManifestError, SignatureError) with what is wrong. Nothing is written to the disk.
    """
    data = _read_file(path)
    try:
        content, signature = split(data)
        if require_key is not None:
            check(content, signature, Path(require_key))
        return replace(_verify(path, content), data=data, signed_by=key_name(signature.public_key) if signature else "")
    except BundleError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from None


def sign_bundle(path: Path, key: Path) -> Bundle:
    """Sign a bundle with the private key in the file `key`, and return it as it is now.

    The file is replaced in one step; a signature that it had is replaced too. Raises BundleError where it is not a
    whole bundle, SignatureError where the key cannot be used, OSError where the file cannot be written.
    """
    content, _ = split(read_bundle(path).data)
    write_file(path, bytes(content) + sign(content, key).line())
    return read_bundle(path)


def _read_file(path: Path) -> memoryview:
    try:
        if not path.is_file():
            raise BundleError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        if (size := path.stat().st_size) > LARGEST_BYTES + LINE_BYTES:
            raise BundleError(f"{path}: {size} bytes, and a bundle has at most {LARGEST_BYTES}")
        return memoryview(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None


def _verify(path: Path, data: memoryview) -> Bundle:
    body, digest = data[:-_COMMENT_BYTES], _digest_at_end(data)
    if sha256_hex(body) != digest:
        raise BundleError("its bytes do not match its digest: it was altered", hint="copy or build it again")
    files = decode(body, comment_bytes=_COMMENT_BYTES)
    if not files or files[0][0] != MANIFEST_NAME:
        raise BundleError(f"its first file is not {MANIFEST_NAME}")
    manifest = parse_manifest(bytes(files[0][1]))
    names = [name for name, _ in files[1:]]
    if names != sorted(names):
        raise BundleError("its files are not sorted by name")
    contents = dict(files[1:])
    _check_files(contents, manifest)
    return Bundle(path, manifest, digest, contents, data)


def _digest_at_end(data: memoryview) -> str:
    comment = re.fullmatch(re.escape(_COMMENT) + rb"([0-9a-f]{64})", bytes(data[-_COMMENT_BYTES:]))
    if comment is None:
        raise BundleError(
            "not an enginewright bundle, or cut short: it does not end with its digest", hint="copy or build it again"
        )
    return comment[1].decode("ascii")


def _check_files(contents: Mapping[str, memoryview], manifest: Manifest) -> None:
    for name in contents:
        if name not in manifest.files:
            raise BundleError(f"the file {name} is in it, and its manifest does not list it")
    for name, entry in manifest.files.items():
        if name not in contents:
            raise BundleError(f"the file {name} is missing")
        if len(contents[name]) != entry.size:
            raise BundleError(f"the file {name} has {len(contents[name])} bytes, and the manifest says {entry.size}")
        if sha256_hex(contents[name]) != entry.sha256:
            raise BundleError(f"the file {name} does not match its digest in the manifest")
