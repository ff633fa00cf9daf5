"""The schema language: how a frozen dataclass declares the keys of a YAML file, and the JSON Schema that follows.

A key is declared once, as a field with a `Rule`. From its annotation, its default and its rule come the parsing and the
messages (`enginewright.reader`) and the JSON Schema. A field without a rule is not in the file. The annotations mean:

- a dataclass is a mapping with exactly its fields as keys; `CHECKS` on the class are rules across its keys;
- a union of dataclasses is a mapping with one key, the `KEY` of one of them, which holds that dataclass;
- `tuple[T, ...]` is a list, `Mapping[str, T]` a mapping with free keys, `Literal[...]` a choice;
- `T | None` is a key that may be absent, `Json` is any value.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, get_args, get_origin

if TYPE_CHECKING:
    from enginewright_runtime.canonical import Json as Json
else:
    Json = object  # as the reader sees it: any value

__all__ = [
    "FACTORY",
    "FACTORY_WORDS",
    "RULE",
    "Check",
    "Fault",
    "Json",
    "Key",
    "Rule",
    "is_tagged",
    "json_schema",
    "keys",
    "members_of",
]

RULE: Final = "enginewright.rule"  # the key of a field's metadata under which its Rule stands
FACTORY: Final = (
    r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"  # the pattern of a user's function or class
)
FACTORY_WORDS: Final = "written module:Name, where module is a file in the recipe's folder"


@dataclass(frozen=True)
class Rule:
    """What a key means and what it accepts.

    Numbers obey `minimum`, `maximum` and `above`; text obeys `pattern`, which `words` says in words; lists and mappings
    have `least` entries or more, lists no entry twice where `unique`. In a list or a mapping, the rules for numbers and
    text are those of its entries.
    """

    doc: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    pattern: str = ""
    words: str = ""
    least: int = 0
    unique: bool = False

    def limits(self) -> str:
        """The limits of a number in words; empty without any.

        >>> Rule("share", minimum=0.05, maximum=0.95).limits()
        'between 0.05 and 0.95'
        """
        if self.minimum is not None and self.maximum is not None:
            return f"between {_number(self.minimum)} and {_number(self.maximum)}"
        words = ((self.above, "more than"), (self.minimum, "at least"), (self.maximum, "at most"))
        return " and ".join(f"{word} {_number(limit)}" for limit, word in words if limit is not None)

    def allows(self, number: float) -> bool:
        return (
            (self.minimum is None or number >= self.minimum)
            and (self.maximum is None or number <= self.maximum)
            and (self.above is None or number > self.above)
        )

    def matches(self, text: str) -> bool:
        return not self.pattern or re.fullmatch(self.pattern, text, re.ASCII) is not None


class Fault(NamedTuple):
    """A rule across keys that is broken. `where` leads to the fault from the checked mapping.

    The message is the path to it and `sentence`; with `missing`, that this key is missing there and what it is for.
    """

    where: tuple[str | int, ...]
    sentence: str
    missing: str = ""


class Check(NamedTuple):
    """A rule across keys: `find` is called with the values of `keys`, once all of them are valid by themselves."""

    keys: tuple[str, ...]
    find: Callable[..., Iterable[Fault]]


@dataclass(frozen=True)
class Key:
    """A field that the file holds."""

    hint: Any
    rule: Rule
    default: Callable[[], object] | None  # None: the key is required


@cache
def keys(cls: type) -> Mapping[str, Key]:
    """The keys of a mapping that is read as `cls`, by name, in the order of its fields."""
    hints = typing.get_type_hints(cls)
    keys = {}
    for item in fields(cls):
        if RULE not in item.metadata:
            continue
        default: Callable[[], object] | None = None
        if item.default is not MISSING:
            default = lambda value=item.default: value  # noqa: E731 - one expression, bound here
        elif item.default_factory is not MISSING:
            default = item.default_factory
        keys[item.name] = Key(hints[item.name], item.metadata[RULE], default)
    return keys


def members_of(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, without None."""
    if get_origin(hint) not in (typing.Union, UnionType):
        return (hint,)
    return tuple(member for member in get_args(hint) if member is not NoneType)


def is_tagged(members: tuple[Any, ...]) -> bool:
    """Whether the alternatives are told apart by the one key of a mapping."""
    return len(members) > 1 and all(is_dataclass(member) for member in members)


def json_schema(cls: type) -> dict[str, Json]:
    """The JSON Schema (draft 2020-12) of `cls`, for editors. Rules across keys are not in it."""
    definitions: dict[str, Json] = {}
    body = _object_schema(cls, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": cls.__name__.lower(),
        **body,
        "$defs": definitions,
    }


def _object_schema(cls: type, definitions: dict[str, Json]) -> dict[str, Json]:
    properties: dict[str, Json] = {}
    for name, key in keys(cls).items():
        about: dict[str, Json] = {"description": key.rule.doc + (f" ({key.rule.unit})" if key.rule.unit else "")}
        default = None if key.default is None else key.default()
        if isinstance(default, (bool, int, float, str)):
            about["default"] = default
        properties[name] = {**about, **_schema_of(key.hint, key.rule, definitions)}
    return {
        "type": "object",
        "description": " ".join((cls.__doc__ or "").split("\n\n")[0].split()),
        "properties": properties,
        "required": [name for name, key in keys(cls).items() if key.default is None],
        "additionalProperties": False,
    }


def _schema_of(hint: Any, rule: Rule, definitions: dict[str, Json]) -> dict[str, Json]:
    if hint is object:
        return {}
    members = members_of(hint)
    if is_tagged(members):
        return {"oneOf": [_tagged_schema(member, definitions) for member in members]}
    if len(members) > 1:
        return {"anyOf": [_schema_of(member, rule, definitions) for member in members]}
    member, arguments = members[0], get_args(members[0])
    if is_dataclass(member):
        return _reference(cast(type, member), definitions)
    if get_origin(member) is tuple:
        entries: dict[str, Json] = {
            "type": "array",
            "items": _schema_of(arguments[0], rule, definitions),
            "minItems": rule.least,
        }
        return {**entries, "uniqueItems": True} if rule.unique else entries
    if get_origin(member) is Mapping:
        return {
            "type": "object",
            "additionalProperties": _schema_of(arguments[1], rule, definitions),
            "minProperties": rule.least,
        }
    if get_origin(member) is Literal:
        return {"enum": list(arguments)}
    if member is str:
        return {"type": "string", "pattern": f"^(?:{rule.pattern})$"} if rule.pattern else {"type": "string"}
    if member is bool:
        return {"type": "boolean"}
    limits = {"minimum": rule.minimum, "maximum": rule.maximum, "exclusiveMinimum": rule.above}
    return {
        "type": "integer" if member is int else "number",
        **{name: limit for name, limit in limits.items() if limit is not None},
    }


def _tagged_schema(member: Any, definitions: dict[str, Json]) -> Json:
    properties = {member.KEY: _reference(member, definitions)}
    return {"type": "object", "properties": properties, "required": [member.KEY], "additionalProperties": False}


def _reference(cls: type, definitions: dict[str, Json]) -> dict[str, Json]:
    if cls.__name__ not in definitions:
        definitions[cls.__name__] = _object_schema(cls, definitions)
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)
