"""docs/troubleshooting.md tells only of messages that are still printed, and answers what TensorRT says as the code does."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from enginewright_runtime.tensorrt.log import Known, hint_for

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
OURS, TENSORRTS = (
    re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    for header in ("message", "TensorRT")
)


def quoted(tables: list[str]) -> list[str]:
    """What stands in backquotes in the first column."""
    return [
        text for table in tables for row in table.splitlines() for text in re.findall("`([^`]+)`", row.split(" | ")[0])
    ]


@cache
def texts() -> tuple[str, ...]:
    """Every text in the sources, with a line's end where a value is filled in."""
    found = []
    for folder in ("builder/enginewright", "runtime/enginewright_runtime"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            told_to_readers = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
            for node in ast.walk(tree):
                if id(node) in told_to_readers:
                    continue
                if isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return tuple(found)


def test_the_page_has_its_tables() -> None:
    assert (len(OURS), len(TENSORRTS)) == (5, 1)
    assert len(quoted(OURS)) > 50
    assert len(quoted(TENSORRTS)) > 8


@pytest.mark.parametrize("message", [message for message in quoted(OURS) if message != "Killed"])
def test_a_message_of_the_page_is_one_of_the_sources(message: str) -> None:
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")), flags=re.DOTALL)
    assert any(pattern.search(text) for text in texts()), f"no text in the sources reads: {message}"


@pytest.mark.parametrize("said", quoted(TENSORRTS))
def test_what_tensorrt_says_is_answered_with_a_fix(said: str) -> None:
    assert hint_for(said.replace("...", "x"), "", Known())


def test_a_message_that_nobody_prints_would_be_found() -> None:
    with pytest.raises(AssertionError):
        test_a_message_of_the_page_is_one_of_the_sources("it is for ..., and this machine is not amused")
