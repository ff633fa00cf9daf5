"""Writes docs/schema.md from the dataclasses that parse recipes and targets: `python docs/make_schema.py`. A test keeps it up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginewright.recipe import Recipe
from enginewright.schema import json_schema
from enginewright.target import Target

PAGE = Path(__file__).with_name("schema.md")


def schema_page() -> str:
    """The whole page as Markdown."""
    lines = [
        "# Every key of recipes and targets",
        "",
        "Made by `python docs/make_schema.py`. `enginewright schema recipe` and `enginewright schema target` print it as JSON Schema.",
        "",
    ]
    for title, cls in (("Recipe", Recipe), ("Target", Target)):
        schema = json_schema(cls)
        lines += [f"## {title}", "", *_table(schema), ""]
        for name, part in schema.get("$defs", {}).items():
            lines += [f"### {name}", "", part["description"], "", *_table(part), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(part: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | is | default | what it says |"
    yield "|---|---|---|---|"
    required = part.get("required", ())
    for key, rule in part["properties"].items():
        default = "required" if key in required else f"`{rule['default']!r}`" if "default" in rule else ""
        yield f"| `{key}` | {_kind(rule)} | {default} | {rule.get('description', '')} |"


def _kind(rule: Mapping[str, Any]) -> str:
    """A rule in words: the part it refers to, its choices, or its type and limits."""
    if "$ref" in rule:
        name = rule["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf"):
        if word in rule:
            return " or ".join(dict.fromkeys(_kind(choice) for choice in rule[word]))
    if "enum" in rule:
        return ", ".join(f"`{choice}`" for choice in rule["enum"])
    if rule.get("type") == "array":
        return f"list of: {_kind(rule['items'])}"
    if isinstance(rule.get("additionalProperties"), dict):
        return f"names to: {_kind(rule['additionalProperties'])}"
    if rule.get("type") == "object" and "properties" in rule:
        return ", ".join(f"`{key}:` {_kind(inner)}" for key, inner in rule["properties"].items())
    return f"{rule.get('type', 'anything')}{_limits(rule)}"


def _limits(rule: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {rule[key]}" for key, word in words.items() if key in rule]
    return f", {' '.join(said)}" if said else ""


if __name__ == "__main__":
    PAGE.write_text(schema_page(), encoding="utf-8")
