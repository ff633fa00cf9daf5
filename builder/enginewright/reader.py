"""Strict reading of a YAML document into a dataclass of the schema language, with every problem of the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeGuard, TypeVar, cast, get_args, get_origin

from enginewright.errors import FileError, Problem, did_you_mean, listed, nearest
from enginewright.schema import Check, Fault, Rule, is_tagged, keys, members_of
from enginewright.source import Document, Entry, MappingNode, Node, Scalar, ScalarNode, SequenceNode, plain_value

__all__ = ["named_as_its_file", "parse"]

T = TypeVar("T")

_INVALID: Final = object()  # stands for a value with a problem


def parse(cls: type[T], document: Document, *, error: type[FileError], checks: Sequence[Check] = ()) -> T:
    """Read a document as `cls`. `checks` are rules across the keys at its top that need more than the document knows.

    Raises `error` with every problem that was found.
    """
    reader = _Reader(document)
    value: object = _INVALID
    if document.root is not None:
        value = reader.table(cls, Rule(""), document.root, _Place("", document.root.line), checks)
    if value is _INVALID or reader.problems:
        raise error(reader.problems)
    return cast(T, value)


def named_as_its_file(path: Path) -> Check:
    """The rule that what a file describes has the name of the file."""

    def find(name: str) -> Iterator[Fault]:
        if name != path.stem:
            yield Fault(("name",), f"must be that of the file, '{path.stem}', got '{name}'")

    return Check(("name",), find)


@dataclass(frozen=True)
class _Place:
    """Where a value stands: the path that messages show, and the line of its key."""

    path: str
    line: int

    def key(self, name: str, line: int) -> _Place:
        return _Place(f"{self.path}.{name}" if self.path else name, line)

    def item(self, index: int, line: int) -> _Place:
        return _Place(f"{self.path}[{index}]", line)

    def inside(self) -> str:
        return f" in {self.path}" if self.path else ""


class _Reader:
    """Reads the nodes of one document and collects its problems. A method that found one returns _INVALID."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.problems: list[Problem] = list(document.problems)

    def table(self, cls: Any, rule: Rule, node: Node, at: _Place, extra: Sequence[Check] = ()) -> object:
        """A mapping whose keys are the fields of `cls`."""
        if not isinstance(node, MappingNode):
            return self._wrong((cls,), rule, node, at)
        known = keys(cls)
        given = {entry.key: entry for entry in node.entries}
        misspelt = set()
        for entry in node.entries:
            if entry.key not in known:
                self._unknown(entry, known, at)
                misspelt.add(nearest(entry.key, known))
        values: dict[str, object] = {}
        for name, key in known.items():
            if name in given:
                values[name] = self.value(key.hint, key.rule, given[name].value, at.key(name, given[name].line))
            elif key.default is not None:
                values[name] = key.default()
            else:
                values[name] = _INVALID
                if name in misspelt:
                    continue
                limits = key.rule.limits()
                what = f"{key.rule.doc}, {limits}" if limits else key.rule.doc
                self._say(at.line, f"missing key '{name}'{at.inside()}: {what}")
        checks = (*getattr(cls, "CHECKS", ()), *extra)
        broken = [self._fault(fault, node, at) for check in checks for fault in _broken(check, values)]
        if broken or _INVALID in values.values() or given.keys() - known.keys():
            return _INVALID
        return cls(**values)

    def value(self, hint: Any, rule: Rule, node: Node, at: _Place) -> object:
        """A value of any annotation that the schema language has."""
        if hint is object:
            return self._free(node, at)
        members = members_of(hint)
        if is_tagged(members):
            return self._tagged(members, node, at)
        for member in members:
            if is_dataclass(member) and isinstance(node, MappingNode):
                return self.table(member, rule, node, at)
            if get_origin(member) is Mapping and isinstance(node, MappingNode):
                return self._mapping(get_args(member)[1], rule, node, at)
            if get_origin(member) is tuple and isinstance(node, SequenceNode):
                return self._list(get_args(member)[0], rule, node, at)
        if isinstance(node, ScalarNode):
            return self._scalar(members, rule, node, at)
        return self._wrong(members, rule, node, at)

    def _tagged(self, members: tuple[Any, ...], node: Node, at: _Place) -> object:
        by_key = {member.KEY: member for member in members}
        choices = listed(by_key, last="or")
        if not isinstance(node, MappingNode) or not node.entries:
            example = f"; write '{node.text}: {{}}'" if isinstance(node, ScalarNode) and node.text in by_key else ""
            return self._say(
                at.line, f"{at.path} must be a mapping with one key ({choices}), got {_got(node)}{example}"
            )
        if len(node.entries) > 1:
            got = listed(entry.key for entry in node.entries)
            return self._say(
                at.line,
                f"{at.path} must have one key ({choices}), got {got}: start each with its own '-', and indent what belongs to it",
            )
        entry = node.entries[0]
        if entry.key not in by_key:
            return self._unknown(entry, by_key, at)
        return self.table(by_key[entry.key], Rule(""), entry.value, at.key(entry.key, entry.line))

    def _mapping(self, hint: Any, rule: Rule, node: MappingNode, at: _Place) -> object:
        values = {
            entry.key: self.value(hint, rule, entry.value, at.key(entry.key, entry.line)) for entry in node.entries
        }
        if len(values) < rule.least:
            return self._say(at.line, f"{at.path} must not be empty: {rule.doc}")
        return _INVALID if _INVALID in values.values() else values

    def _list(self, hint: Any, rule: Rule, node: SequenceNode, at: _Place) -> object:
        values = [self.value(hint, rule, item, at.item(index, item.line)) for index, item in enumerate(node.items)]
        if len(values) < rule.least:
            return self._say(at.line, f"{at.path} must not be empty: {rule.doc}")
        if _INVALID in values:
            return _INVALID
        for index, value in enumerate(values):
            if rule.unique and value in values[:index]:
                return self._say(node.items[index].line, f"{at.path}[{index}] repeats '{value}'")
        return tuple(values)

    def _scalar(self, members: tuple[Any, ...], rule: Rule, node: ScalarNode, at: _Place) -> object:
        value = node.value()
        for member in members:
            if get_origin(member) is Literal and any(
                value == choice and type(value) is type(choice) for choice in get_args(member)
            ):
                return value
            if (member is bool and isinstance(value, bool)) or (
                member is str and isinstance(value, str) and rule.matches(value)
            ):
                return value
            if member in (int, float) and _is_number(value, whole=member is int):
                number = member(value)
                if math.isfinite(number) and rule.allows(number):
                    return number
                return self._say(at.line, f"{at.path} must be {rule.limits() or 'finite'}, got {node.text}")
        return self._wrong(members, rule, node, at)

    def _free(self, node: Node, at: _Place) -> object:
        """Any value, as plain dicts and lists."""
        if isinstance(node, MappingNode):
            entries = {entry.key: self._free(entry.value, at.key(entry.key, entry.line)) for entry in node.entries}
            return _INVALID if _INVALID in entries.values() else entries
        if isinstance(node, SequenceNode):
            items = [self._free(item, at.item(index, item.line)) for index, item in enumerate(node.items)]
            return _INVALID if _INVALID in items else items
        value = node.value()
        if isinstance(value, float) and not math.isfinite(value):
            return self._say(at.line, f"{at.path} must be finite, got {node.text}")
        return value

    def _wrong(self, members: tuple[Any, ...], rule: Rule, node: Node, at: _Place) -> object:
        """A value of another kind than any that the key accepts."""
        expected = listed((words for member in members for words in _expected(member, rule)), last="or")
        return self._say(
            at.line, f"{at.path or 'the file'} must be {expected}, got {_got(node)}{_remedy(members, node)}"
        )

    def _unknown(self, entry: Entry, known: Iterable[str], at: _Place) -> object:
        meant = did_you_mean(entry.key, known, otherwise="The keys here are")
        return self._say(entry.line, f"unknown key '{entry.key}'{at.inside()}. {meant}")

    def _fault(self, fault: Fault, node: Node, at: _Place) -> object:
        for step in fault.where:
            if isinstance(step, int) and isinstance(node, SequenceNode):
                node = node.items[step]
                at = at.item(step, node.line)
            else:
                entry = next((entry for entry in _entries(node) if entry.key == step), None)
                at = at.key(str(step), entry.line if entry else at.line)
                node = entry.value if entry else node
        if fault.missing:
            return self._say(at.line, f"missing key '{fault.missing}'{at.inside()}: {fault.sentence}")
        return self._say(at.line, f"{at.path} {fault.sentence}")

    def _say(self, line: int, sentence: str) -> object:
        self.problems.append(self._document.problem(line, sentence))
        return _INVALID


def _entries(node: Node) -> tuple[Entry, ...]:
    return node.entries if isinstance(node, MappingNode) else ()


def _broken(check: Check, values: Mapping[str, object]) -> Iterable[Fault]:
    arguments = [values.get(key, _INVALID) for key in check.keys]
    return () if _INVALID in arguments else check.find(*arguments)


def _is_number(value: Scalar, *, whole: bool) -> TypeGuard[int | float]:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)


def _expected(member: Any, rule: Rule) -> tuple[str, ...]:
    """What a key accepts, in words, for one alternative of its annotation."""
    if get_origin(member) is Literal:
        return (rule.words,) if rule.words else tuple(str(choice) for choice in get_args(member))
    if member in (int, float):
        kind, limits = "a whole number" if member is int else "a number", rule.limits()
        return (f"{kind} {limits}" if limits.startswith("between") else f"{kind}, {limits}" if limits else kind,)
    if member is str:
        return (rule.words or "text",)
    if member is bool:
        return ("true", "false")
    return ("a list",) if get_origin(member) is tuple else ("a mapping",)


def _got(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    value = node.value()
    if value is None:
        return "nothing"
    return f"'{node.text}'" if isinstance(value, str) else node.text


def _remedy(members: tuple[Any, ...], node: Node) -> str:
    """How to mend a value of the wrong kind, where that is plain to see."""
    if not isinstance(node, ScalarNode):
        return ""
    value = node.value()
    choices = [str(choice) for member in members if get_origin(member) is Literal for choice in get_args(member)]
    if isinstance(value, str):
        if not node.plain and _is_number(plain_value(node.text), whole=False) and {int, float} & set(members):
            return ", which is text; without the quotes it is a number"
        return f". {did_you_mean(value, choices)}" if nearest(value, choices) else ""
    if value is None:
        return "; write {} to change nothing" if any(is_dataclass(member) for member in members) else ""
    return "; in quotes it is text" if str in members else ""
