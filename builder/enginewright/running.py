"""What a stage gets while it runs, and what it gives back. Every `stages/*.py` has one function `run(step: RunningStep)
-> Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from enginewright.record import Record
from enginewright_runtime.canonical import Json

__all__ = ["Outcome", "RunningStep"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """`summary` is what people see of the result; `provisional` says in a sentence why a later build must not reuse it,
    or is empty.
    """

    summary: Mapping[str, Json] = field(default_factory=dict)
    provisional: str = ""


@dataclass(frozen=True)
class RunningStep:
    """One step while it runs, in a process of its own.

    `parameters` are the step's as JSON (the planner made them from checked recipes): each stage reads its own, once.
    `inputs` maps names to read-only files in the store; `output(name)` is where to write a result. `unfinished` is a
    folder that a step may make to keep what it needs to go on after an interruption: the next attempt finds it. `history` are the
    records of the steps before it, for the stages that ask for them. `tell` sends an event to whoever watches; use
    `progress` and `warn`.
    """

    name: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Path]
    staging: Path
    unfinished: Path
    code_folder: Path
    tell: Callable[[Mapping[str, Json]], None]
    history: tuple[Record, ...] = ()

    def output(self, name: str) -> Path:
        return self.staging / name

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.tell({"event": "progress", "done": done, "total": total, "note": note})

    def say(self, sentence: str) -> None:
        """Something worth a line of its own while the step runs, as the result of an epoch."""
        self.tell({"event": "note", "text": sentence})

    def warn(self, sentence: str) -> None:
        """Say something that the user should know though the step succeeds. It is kept in the record."""
        self.tell({"event": "warning", "text": sentence})

    def tracked(self, items: Iterable[T], *, total: int, note: str = "") -> Iterator[T]:
        """The same items, with progress told before each."""
        for done, item in enumerate(items):
            self.progress(done, total, note)
            yield item
        self.progress(total, total, note)
