"""Signatures of bundles (Ed25519, RFC 8032): making keys, signing, and checking before anything else is read.

A signature follows the last byte of a bundle as one line, ``enginewright ed25519 <64 digits: the public key> <128
digits: the signature>``. What is signed is `_PURPOSE` and the sha256 of every byte before that line. A bundle is the
same bundle, with the same digest, with and without a signature, and signing it twice with one key gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from enginewright_runtime.atomic import sync_folder
from enginewright_runtime.errors import SignatureError

_LINE = re.compile(rb"\nenginewright ed25519 ([0-9a-f]{64}) ([0-9a-f]{128})\n")
LINE_BYTES = len("\nenginewright ed25519 \n") + 64 + 1 + 128
_PURPOSE = b"enginewright bundle 1\n"  # so that no signature of something else can be taken for one of a bundle


@dataclass(frozen=True)
class Signature:
    """What stands in a bundle's last line. The key is only what the line claims until the signature was checked."""

    public_key: bytes
    signature: bytes

    def line(self) -> bytes:
        """The bytes that are appended to a bundle."""
        return f"\nenginewright ed25519 {self.public_key.hex()} {self.signature.hex()}\n".encode("ascii")


def split(data: memoryview) -> tuple[memoryview, Signature | None]:
    """A bundle's bytes without the line of its signature, and that signature where there is one."""
    found = _LINE.fullmatch(bytes(data[-LINE_BYTES:]))
    if found is None:
        return data, None
    texts = (group.decode("ascii") for group in found.groups())
    return data[:-LINE_BYTES], Signature(*map(bytes.fromhex, texts))


def check(content: memoryview, signature: Signature | None, key: Path) -> None:
    """Raises SignatureError unless `content` was signed by the owner of the public key in the file `key`."""
    required = _public_key(key)
    raw = required.public_bytes_raw()
    if signature is None:
        raise SignatureError(f"it is not signed, and a signature by the key {key_name(raw)} is required")
    if signature.public_key != raw:
        raise SignatureError(
            f"it is signed by the key {key_name(signature.public_key)}, and the key {key_name(raw)} is required"
        )
    try:
        required.verify(signature.signature, _statement(content))
    except _library("cryptography.exceptions").InvalidSignature:
        raise SignatureError(
            "its signature is not one of these bytes: it was altered, or the signature is another bundle's",
            hint="get the bundle again from who signed it",
        ) from None


def sign(content: memoryview, key: Path) -> Signature:
    """The signature of `content` by the private key in the file `key`. Raises SignatureError."""
    private = _private_key(key)
    return Signature(private.public_key().public_bytes_raw(), private.sign(_statement(content)))


def make_keys(path: Path) -> tuple[Path, str]:
    """Write a new private key to `path`, readable by its owner alone, and its public key to `path`.pub.

    Returns the public key's file and the key's name. Neither file may exist. Raises SignatureError.
    """
    serialization = _library("cryptography.hazmat.primitives.serialization")
    private = _ed25519().Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public_path = path.with_name(f"{path.name}.pub")
    _write_new(path, secret, mode=0o600)
    try:
        _write_new(public_path, public, mode=0o644)
    except SignatureError:
        path.unlink()
        raise
    return public_path, key_name(private.public_key().public_bytes_raw())


def key_name(public_key: bytes) -> str:
    """How messages call a public key: the first 16 digits of its sha256.

    >>> key_name(bytes(32))
    '66687aadf862bd77'
    """
    return hashlib.sha256(public_key).hexdigest()[:16]


def _statement(content: memoryview) -> bytes:
    return _PURPOSE + hashlib.sha256(content).digest()


# The keys' types are the library's own, and it is imported on use.
def _public_key(path: Path) -> Any:
    serialization = _library("cryptography.hazmat.primitives.serialization")
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, _unsupported()):
        raise SignatureError(f"{path}: not a public key in PEM", hint="`enginewright keygen` writes FILE.pub") from None
    if not isinstance(key, _ed25519().Ed25519PublicKey):
        raise SignatureError(f"{path}: a public key, but not an Ed25519 one")
    return key


def _private_key(path: Path) -> Any:
    serialization = _library("cryptography.hazmat.primitives.serialization")
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except TypeError:
        raise SignatureError(f"{path}: the private key is encrypted", hint="decrypt it for signing") from None
    except (ValueError, _unsupported()):
        raise SignatureError(f"{path}: not a private key in PEM", hint="`enginewright keygen FILE` makes one") from None
    if not isinstance(key, _ed25519().Ed25519PrivateKey):
        raise SignatureError(f"{path}: a private key, but not an Ed25519 one")
    return key


def _ed25519() -> Any:
    return _library("cryptography.hazmat.primitives.asymmetric.ed25519")


def _unsupported() -> Any:
    return _library("cryptography.exceptions").UnsupportedAlgorithm


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SignatureError(
            f"signatures need the package cryptography, which cannot be imported: {error}",
            hint="pip install 'enginewright-runtime[signing]'",
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SignatureError(f"{path}: the key cannot be read: {error.strerror}") from None


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise SignatureError(f"{path}: cannot be written: {error.strerror}") from None
