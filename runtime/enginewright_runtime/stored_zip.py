"""The canonical stored zip that a bundle is: one byte string for a list of files, and a reader that demands it.

The records are those of PKWARE's APPNOTE 4.3.7, 4.3.12 and 4.3.16. They are written here and not by the standard
library, whose exact bytes are not promised to stay the same from one Python version to the next; they are read here
because a reader that repairs what it reads (names cut at a NUL, data before the archive, sizes taken from either of
two headers) is not one to verify with.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from enginewright_runtime.errors import BundleError

Content: TypeAlias = "bytes | memoryview"

LARGEST_BYTES = (1 << 32) - 1  # beyond, the zip64 records would be needed
MOST_FILES = 1_000
LONGEST_PATH = 300

# One spelling for every file: relative, no empty, "." or ".." parts, nothing hidden, ASCII without anything that a
# shell or a file system treats specially. Nothing is ever extracted under these names by this package, but a user may
# unzip a bundle.
_PART = r"[A-Za-z0-9_+=@-][A-Za-z0-9._+=@-]*"
SAFE_PATH = rf"{_PART}(?:/{_PART})*"

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_VERSION = 20
_MADE_BY_UNIX = 3 << 8 | _VERSION
_MIDNIGHT, _FIRST_OF_1980 = 0, 1 << 5 | 1
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16


def encode(files: Sequence[tuple[str, Content]], *, comment_bytes: int) -> Iterator[Content]:
    """The bytes of the zip, in pieces, up to the place where a comment of `comment_bytes` follows."""
    directory = bytearray()
    offset = 0
    for name, content in files:
        raw_name = name.encode("ascii")
        # Both headers carry these eight fields in this order: version, flags, method (0 is stored), time, date, CRC,
        # and the two sizes.
        shared = (_VERSION, 0, 0, _MIDNIGHT, _FIRST_OF_1980, zlib.crc32(content), len(content), len(content))
        directory += _CENTRAL.pack(
            b"PK\x01\x02", _MADE_BY_UNIX, *shared, len(raw_name), 0, 0, 0, 0, _PLAIN_FILE, offset
        )
        directory += raw_name
        yield _LOCAL.pack(b"PK\x03\x04", *shared, len(raw_name), 0) + raw_name
        yield content
        offset += _LOCAL.size + len(raw_name) + len(content)
    yield bytes(directory)
    yield _END.pack(b"PK\x05\x06", 0, 0, len(files), len(files), len(directory), offset, comment_bytes)


def decode(body: memoryview, *, comment_bytes: int) -> list[tuple[str, memoryview]]:
    """The names and contents in a zip that `encode` wrote, in their order; `body` ends where the comment begins.

    Raises BundleError with what is wrong, for anything that `encode` would not have written.
    """
    files = _directory_files(body, comment_bytes)
    position = 0
    for piece in encode(files, comment_bytes=comment_bytes):
        if body[position : position + len(piece)] != piece:
            raise BundleError(f"its zip records are not the canonical ones (at byte {position})")
        position += len(piece)
    if position != len(body):
        raise BundleError(f"{len(body) - position} bytes of it belong to no file")
    return files


def _directory_files(body: memoryview, comment_bytes: int) -> list[tuple[str, memoryview]]:
    """What the zip's directory lists, each entry checked by itself."""
    if len(body) < _END.size:
        raise BundleError("it is too short to be a zip")
    signature, _, _, _, count, _, offset, comment = _END.unpack_from(body, len(body) - _END.size)
    if signature != b"PK\x05\x06" or comment != comment_bytes:
        raise BundleError("its zip directory has no end record")
    if count > MOST_FILES:
        raise BundleError(f"its zip directory lists {count} files, and {MOST_FILES} is the most that is read")
    files: list[tuple[str, memoryview]] = []
    seen: set[str] = set()
    for _ in range(count):
        if offset + _CENTRAL.size > len(body) or bytes(body[offset : offset + 4]) != b"PK\x01\x02":
            raise BundleError("its zip directory is cut short")
        name, content, offset = _directory_entry(body, offset)
        if name in seen:
            raise BundleError(f"the file {name} is in it twice")
        seen.add(name)
        files.append((name, content))
    return files


def _directory_entry(body: memoryview, offset: int) -> tuple[str, memoryview, int]:
    """One directory entry's name and content, and where the next entry begins."""
    record = _CENTRAL.unpack_from(body, offset)
    _, _, _, flags, method, _, _, _, packed_size, size, name_size, extra_size, comment_size = record[:13]
    attributes, start = record[15:]
    raw_name = bytes(body[offset + _CENTRAL.size : offset + _CENTRAL.size + name_size])
    name = _check_path(raw_name.decode("ascii", errors="backslashreplace"))
    if stat.S_ISLNK(attributes >> 16):
        raise BundleError(f"the file {name} is a link")
    if flags:
        raise BundleError(f"the file {name} is encrypted or streamed (zip flags {flags:#06x})")
    if method != 0 or packed_size != size:
        raise BundleError(f"the file {name} is compressed, and a bundle only stores")
    content_start = start + _LOCAL.size + name_size
    if content_start + size > len(body):
        raise BundleError(f"the file {name} lies outside the bundle")
    next_offset = offset + _CENTRAL.size + name_size + extra_size + comment_size
    return name, body[content_start : content_start + size], next_offset


def _check_path(name: str) -> str:
    """`name`, if it is a safe path for a file in a bundle; else BundleError."""
    if len(name) > LONGEST_PATH or not re.fullmatch(SAFE_PATH, name):
        raise BundleError(f"the file name {name[:LONGEST_PATH]!r} is not a plain relative path")
    return name
