"""YAML text to a tree of nodes that know their lines. What may stand where is for `enginewright.schema` to say.

The tree is built from the parser's events and not from its objects: events still tell `1e-3` from `"1e-3"`, and show
tags, aliases and doubled keys. Values are read by the core schema of YAML 1.2 (section 10.3.2), not by YAML 1.1: `1e-3`
is a number, `no` is text, 012 is twelve.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from enginewright.errors import FileError, Problem

__all__ = [
    "Document",
    "Entry",
    "MappingNode",
    "Node",
    "Scalar",
    "ScalarNode",
    "SequenceNode",
    "parse_yaml",
    "plain_value",
    "read_text",
    "shown",
]

_DEEPEST = 50  # levels of nesting; a recipe needs six
_MOST_NODES = 20_000  # with every alias written out; a recipe needs a hundred
_LONGEST_NUMBER = 100  # characters; longer digits are text
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Scalar: TypeAlias = "bool | int | float | str | None"

_PLAIN_VALUES: tuple[tuple[re.Pattern[str], Callable[[str], Scalar]], ...] = (
    (re.compile(r"null|Null|NULL|~|"), lambda text: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)


@dataclass(frozen=True)
class ScalarNode:
    """One value as it is written; `plain` where it has no quotes, so that it may be a number."""

    line: int
    text: str
    plain: bool

    def value(self) -> Scalar:
        """What the text stands for.

        >>> [plain_value(text) for text in ("1e-3", "12", "true", "no", "")]
        [0.001, 12, True, 'no', None]
        """
        return plain_value(self.text) if self.plain else self.text


@dataclass(frozen=True)
class SequenceNode:
    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Entry:
    """A key with its own line, and its value."""

    line: int
    key: str
    value: Node


@dataclass(frozen=True)
class MappingNode:
    line: int
    entries: tuple[Entry, ...]


Node: TypeAlias = "ScalarNode | SequenceNode | MappingNode"


@dataclass(frozen=True)
class Document:
    """A parsed file. `root` is None where it could not be parsed, and `problems` says why; doubled keys leave both."""

    label: str
    root: Node | None
    problems: tuple[Problem, ...] = ()
    rendered_lines: tuple[str, ...] = ()

    def problem(self, line: int | None, sentence: str) -> Problem:
        """A problem of this file; where rendering changed the number of lines, at a quoted line of the rendered text."""
        if not self.rendered_lines or line is None:
            return Problem(self.label, line, sentence)
        quoted = self.rendered_lines[line - 1].strip() if line <= len(self.rendered_lines) else ""
        return Problem(
            f"{self.label} (rendered)", line, f"{sentence} (the line reads: {quoted})" if quoted else sentence
        )


def parse_yaml(text: str, *, label: str, written: str | None = None) -> Document:
    """Parse the text of the file that messages call `label`.

    `written` is the file as the user edits it, where `text` was rendered from it: while both have as many lines, a line
    of the one is taken for that of the other.
    """
    moved = written is not None and written.count("\n") != text.count("\n")
    document = Document(label, None, (), tuple(text.split("\n")) if moved else ())
    builder = _Builder()
    try:
        root = builder.build(text)
        problems = tuple(document.problem(line, sentence) for line, sentence in builder.faults)
    except _RefusedError as refused:
        root, problems = None, (document.problem(refused.line, refused.sentence),)
    except yaml.YAMLError as error:
        root, problems = None, (document.problem(_line_of(error, text), f"not YAML: {_reason_of(error, text)}"),)
    return Document(label, root, problems, document.rendered_lines)


def read_text(path: Path, *, error: type[FileError]) -> str:
    """The text of a file that the user wrote. Raises `error` where it cannot be read or is not UTF-8."""
    label = shown(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        line = path.read_bytes()[: fault.start].count(b"\n") + 1
        raise error([Problem(label, line, f"not UTF-8: {fault.reason}")], hint="save the file as UTF-8") from None
    except OSError as fault:
        raise error([Problem(label, None, f"cannot be read: {fault.strerror}")]) from None


def shown(path: Path) -> str:
    """How messages call a file: relative to the working folder where it lies in it."""
    try:
        return path.absolute().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def plain_value(text: str) -> Scalar:
    """What a text without quotes stands for in YAML 1.2's core schema."""
    if len(text) <= _LONGEST_NUMBER:
        for pattern, value in _PLAIN_VALUES:
            if pattern.fullmatch(text):
                return value(text)
    return text


class _RefusedError(Exception):
    """YAML that is well formed and still not accepted."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line, self.sentence = line, sentence


@dataclass
class _Builder:
    """Builds the tree from events. An anchor keeps the size and the height of its node: an alias counts for as much."""

    faults: list[tuple[int, str]] = field(default_factory=list)
    anchors: dict[str, tuple[Node, int, int]] = field(default_factory=dict)
    nodes: int = 0
    deepest: int = 0  # of the node that is being built, so far

    def build(self, text: str) -> Node:
        events = iter(yaml.parse(text, Loader=_LOADER))
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise _RefusedError(_line(event), "a second document starts here; the file must hold one")
                root = self._node(next(events), events, depth=0)
        if root is None or root == ScalarNode(root.line, "", plain=True):
            raise _RefusedError(1, "the file is empty")
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], *, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, depth)
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        if event.tag is not None:
            raise _RefusedError(_line(event), f"tags are not accepted: {event.tag}")
        before, deepest_before = self.nodes, self.deepest
        self.deepest = depth
        self._count(1, depth, _line(event))
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = ScalarNode(_line(event), event.value, plain=not event.style)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = SequenceNode(_line(event), tuple(self._items(events, depth)))
        else:
            node = MappingNode(_line(event), tuple(self._entries(events, depth)))
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, self.nodes - before, self.deepest - depth)
        self.deepest = max(self.deepest, deepest_before)
        return node

    def _aliased(self, event: yaml.AliasEvent, depth: int) -> Node:
        if event.anchor not in self.anchors:
            raise _RefusedError(
                _line(event), f"the alias *{event.anchor} stands for nothing that was complete before it"
            )
        node, size, height = self.anchors[event.anchor]
        self._count(size, depth + height, _line(event))
        return node

    def _count(self, nodes: int, depth: int, line: int) -> None:
        """Add so many nodes, the deepest of them at `depth`."""
        self.nodes += nodes
        self.deepest = max(self.deepest, depth)
        if self.nodes > _MOST_NODES:
            raise _RefusedError(line, f"more than {_MOST_NODES} values, aliases written out")
        if depth > _DEEPEST:
            raise _RefusedError(line, f"nested more than {_DEEPEST} levels deep, aliases written out")

    def _items(self, events: Iterator[yaml.Event], depth: int) -> Iterator[Node]:
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            yield self._node(event, events, depth=depth + 1)

    def _entries(self, events: Iterator[yaml.Event], depth: int) -> Iterator[Entry]:
        first_lines: dict[str, int] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key, line = self._node(event, events, depth=depth + 1), _line(event)
            value = self._node(next(events), events, depth=depth + 1)
            if not isinstance(key, ScalarNode):
                raise _RefusedError(line, "a key must be plain text, got a list or a mapping")
            if key.text == "<<":
                raise _RefusedError(line, "merge keys (<<) are not read; write the keys out, or use a Jinja2 macro")
            if key.text in first_lines:
                self.faults.append(
                    (line, f"the key '{key.text}' is here a second time; the first is on line {first_lines[key.text]}")
                )
                continue
            first_lines[key.text] = line
            yield Entry(line, key.text, value)


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None  # of an event that was parsed
    return int(event.start_mark.line) + 1


def _line_of(error: yaml.YAMLError, text: str) -> int:
    """The line that the parser complains about; what is missing at the end of the file, it misses on the last line."""
    last = max(1, len(text.splitlines()))
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return 1 if mark is None else min(int(mark.line) + 1, last)
    position = getattr(error, "position", 0)  # of a ReaderError: a character that YAML does not allow
    return text[:position].count("\n") + 1


def _reason_of(error: yaml.YAMLError, text: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        line = "" if mark is None else "".join(text.split("\n")[mark.line : mark.line + 1])
        if mark is not None and line[mark.column : mark.column + 1] == "\t":
            return "a tab stands where only spaces may; indent with spaces"
        return f"{error.problem} {error.context}" if error.context else str(error.problem)
    character = getattr(error, "character", None)
    return f"the character U+{character:04X} is not allowed" if isinstance(character, int) else str(error)
