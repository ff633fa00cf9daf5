"""Taking typed values out of parsed JSON, with errors that give the path to the fault."""

from __future__ import annotations

import re
from collections.abc import Mapping

from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import EnginewrightError


class JsonField:
    """One value in a machine-written document: where it stands, and what it must be.

    Every method returns the value as the type that it promises, or raises `error` with the path, the rule and what
    stands there. Keys that nobody asks for are left alone: a newer writer may have added them.

    >>> document = JsonField({"engines": [{"backend": 7}]}, "manifest.json", EnginewrightError)
    >>> document.field("engines").items()[0].field("backend").text()
    Traceback (most recent call last):
    ...
    enginewright_runtime.errors.EnginewrightError: manifest.json: engines[0].backend must be text, got 7
    """

    def __init__(self, value: Json, document: str, error: type[EnginewrightError], *, path: str = "") -> None:
        self.value = value
        self.path = path
        self._document = document
        self._error = error

    def refuse(self, rule: str) -> EnginewrightError:
        """The error to raise when the value breaks `rule` ("must be text")."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return self._error(f"{self._document}: {self.path or 'the document'} {rule}, got {shown}")

    def field(self, key: str) -> JsonField:
        """The value of a key that must be there."""
        mapping = self._mapping()
        if key not in mapping:
            where = f"{self.path} lacks" if self.path else "lacks"
            raise self._error(f"{self._document}: {where} the key {key!r}")
        return self._below(mapping[key], f"{self.path}.{key}" if self.path else key)

    def items(self) -> list[JsonField]:
        """The values of a list."""
        if not isinstance(self.value, (list, tuple)):
            raise self.refuse("must be a list")
        return [self._below(item, f"{self.path}[{index}]") for index, item in enumerate(self.value)]

    def fields(self) -> dict[str, JsonField]:
        """The keys and values of an object."""
        return {key: self._below(value, f"{self.path}[{key!r}]") for key, value in self._mapping().items()}

    def mapping(self) -> dict[str, Json]:
        """An object as it stands."""
        return dict(self._mapping())

    def text(self, *, pattern: str = "", rule: str = "", longest: int = 1_000) -> str:
        """Text, no longer than `longest`, that matches all of `pattern`; `rule` says the pattern in words."""
        if not isinstance(self.value, str):
            raise self.refuse("must be text")
        if len(self.value) > longest:
            raise self.refuse(f"must be at most {longest} characters long")
        if pattern and not re.fullmatch(pattern, self.value):
            raise self.refuse(rule)
        return self.value

    def integer(self, *, least: int = 0) -> int:
        """A whole number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.refuse("must be a whole number")
        if self.value < least:
            raise self.refuse(f"must be at least {least}")
        return self.value

    def integers(self) -> tuple[int, ...]:
        """A list of whole numbers, none negative."""
        return tuple(item.integer() for item in self.items())

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.refuse("must be true or false")
        return self.value

    def number(self) -> float:
        """A number, whole or not."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise self.refuse("must be a number")
        try:
            return float(self.value)
        except OverflowError:
            raise self.refuse("must fit a double") from None

    def texts(self) -> dict[str, str]:
        """An object whose values are text."""
        return {key: field.text() for key, field in self.fields().items()}

    def numbers(self) -> dict[str, float]:
        """An object whose values are numbers."""
        return {key: field.number() for key, field in self.fields().items()}

    def _mapping(self) -> Mapping[str, Json]:
        if not isinstance(self.value, Mapping):
            raise self.refuse("must be an object")
        return self.value

    def _below(self, value: Json, path: str) -> JsonField:
        return JsonField(value, self._document, self._error, path=path)
