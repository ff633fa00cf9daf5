"""Settings of a recipe as plain JSON, for the parameters of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from enginewright_runtime.canonical import Json

__all__ = ["plain_json"]


def plain_json(settings: object) -> dict[str, Json]:
    """A frozen settings dataclass as plain JSON: tuples become lists, nested dataclasses objects."""

    def plain(value: object) -> Json:
        if is_dataclass(value) and not isinstance(value, type):
            return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        assert value is None or isinstance(value, (bool, int, float, str))
        return value

    result = plain(settings)
    assert isinstance(result, dict)
    return result
