"""Report data as JSON, and back: what a bundle keeps of its build (report.json), so that its page can be made again.

A key for each field of the dataclasses, by their annotations. What the bundle holds elsewhere is left out: raw latencies
(measurements/), and what devices made of the bundle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from enginewright.report.data import ReportData
from enginewright_runtime.canonical import Json, canonical_bytes, strict_json
from enginewright_runtime.errors import BundleError
from enginewright_runtime.json_field import JsonField

__all__ = ["FILE_NAME", "PAGE_NAME", "report_from_bytes", "report_to_bytes"]

FORMAT = 1  # 1: the first.
FILE_NAME = "report.json"
PAGE_NAME = "report.html"

_ELSEWHERE = frozenset({"latency", "latency_evicted", "engine_layers", "devices"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST = 4 << 20  # characters: the recipe may be as long as a manifest

T = TypeVar("T")


def report_to_bytes(data: ReportData) -> bytes:
    """What `report_from_bytes` reads, as canonical JSON."""
    kept = {item.name: _to_json(getattr(data, item.name)) for item in fields(data) if item.name not in _ELSEWHERE}
    return canonical_bytes({"format": FORMAT, **kept})


def report_from_bytes(stored: bytes, *, source: str = FILE_NAME) -> ReportData:
    """The report of a build as it was stored, without latencies.

    Raises BundleError, which names `source`, the path to the fault and the rule.
    """
    try:
        document = JsonField(strict_json(stored), source, BundleError)
    except ValueError as error:
        raise BundleError(f"{source}: not valid JSON: {error}") from None
    if (version := document.field("format").integer(least=1)) > FORMAT:
        raise BundleError(
            f"{source}: format {version} is newer than this enginewright reads (format {FORMAT})",
            hint="pip install --upgrade enginewright",
        )
    return _object(ReportData, document)


def _to_json(value: object) -> Json:
    if isinstance(value, Enum):
        return str(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _to_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)  # halves of a character, which no file can hold
    assert value is None or isinstance(value, (bool, int, float))
    return value


@cache
def _annotations(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _object(kind: type[T], found: JsonField) -> T:
    """A dataclass from an object. Of a report, what the bundle holds elsewhere is left as it is without it."""
    annotations = _annotations(kind)  # type: ignore[arg-type]  # a class is hashable
    elsewhere = _ELSEWHERE if kind is ReportData else frozenset()
    names = [item.name for item in fields(kind) if item.name not in elsewhere]  # type: ignore[arg-type]  # a dataclass
    read = {name: _value(annotations[name], found.field(name)) for name in names}
    return kind(**read, **({"latency": None} if elsewhere else {}))


def _value(kind: Any, found: JsonField) -> Any:
    """The value of an annotation: plain types, dataclasses, enumerations, tuples of those, and any of them or None."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _one_of(get_args(kind), found)
    if origin is tuple:
        return _tuple(get_args(kind), found)
    if kind is bool:
        return found.boolean()
    if kind is int:
        return found.integer(least=-(1 << 63))
    if kind is float:
        return found.number()
    if kind is str:
        return found.text(longest=_LONGEST)
    if isinstance(kind, type) and issubclass(kind, Enum):
        members = {member.value: member for member in kind}
        if found.value not in members:
            raise found.refuse(f"must be one of {', '.join(map(str, members))}")
        return members[found.value]
    return _object(kind, found)


def _one_of(kinds: tuple[Any, ...], found: JsonField) -> Any:
    """None where that is allowed; of int and str (a size with or without a name) what stands there."""
    if found.value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    if len(others) == 1:
        return _value(others[0], found)
    return _value(str if isinstance(found.value, str) else int, found)


def _tuple(kinds: tuple[Any, ...], found: JsonField) -> tuple[Any, ...]:
    items = found.items()
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_value(kinds[0], item) for item in items)
    if len(items) != len(kinds):
        raise found.refuse(f"must be a list of {len(kinds)}")
    return tuple(_value(kind, item) for kind, item in zip(kinds, items, strict=True))
