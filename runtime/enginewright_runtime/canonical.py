"""Canonical JSON, strict JSON and sha256: the one way in which bytes become digests."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
DEEPEST = 64  # levels of nesting that strict_json accepts: ours have fewer than ten


def canonical_bytes(value: Json) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, UTF-8, shortest float that reads back the same.

    Raises ValueError for NaN and infinities, which JSON does not have, and TypeError for anything that is not JSON,
    keys that are not text included (the standard library would write 1 and "1" alike).

    >>> canonical_bytes({"b": 0.5, "a": [1, None, "\N{GREEK SMALL LETTER MU}"]}).decode()
    '{"a":[1,null,"μ"],"b":0.5}'
    """
    _refuse_what_json_lacks(value, "$")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)
    return text.encode("utf-8")


def strict_json(data: bytes) -> Json:
    """Parse JSON that somebody else may have written: the ValueError says what is wrong.

    Refused beyond what the standard library refuses: doubled keys, NaN and infinities (1e999 included), text that is
    not UTF-8, or could not be written as it (a lone surrogate), and more than DEEPEST levels.

    >>> strict_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'a' stands twice in one object
    """
    try:
        text = data.decode("utf-8")
        value: Json = json.loads(
            text, object_pairs_hook=_object_without_doubles, parse_constant=_refuse_constant, parse_float=_finite_float
        )
        _refuse_depth(value, DEEPEST)
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a text in it has half of a character that takes two escapes") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    return value


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """The sha256 of some bytes as 64 lower-case hexadecimal digits.

    >>> sha256_hex(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _refuse_what_json_lacks(value: object, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: a JSON key is text, got {key!r} ({type(key).__name__})")
            _refuse_what_json_lacks(item, f"{where}.{key}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: JSON has no {value!r}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_what_json_lacks(item, f"{where}[{index}]")
    elif value is not None and not isinstance(value, (bool, int, str)):
        raise TypeError(f"{where}: {type(value).__name__} is not JSON")


def _plain(value: object) -> object:
    """Mappings that are not dicts (read-only views) are written as objects."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _object_without_doubles(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result: dict[str, Json] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice in one object")
        result[key] = value
    return result


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"JSON has no {name}")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_depth(value: Json, levels_left: int) -> None:
    if levels_left == 0:
        raise ValueError(f"nested more than {DEEPEST} levels deep")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        _refuse_depth(item, levels_left - 1)
