"""What a build shows on standard error while it runs: a live line on a terminal, plain lines elsewhere. Never anything
on standard output.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from enginewright.step_summary import summarized
from enginewright_runtime.canonical import Json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["PlainWatch", "RichWatch", "Watch", "watch"]

_SECONDS_BETWEEN_LINES = 10.0


class Watch(Protocol):
    """Hears what happens to each step of a build, in order."""

    def begins(self, name: str, position: int, total: int, reasons: tuple[str, ...]) -> None: ...

    def event(self, name: str, event: Mapping[str, Json]) -> None: ...

    def ends(self, name: str, status: str, seconds: float, summary: Mapping[str, Json]) -> None: ...

    def close(self) -> None: ...


def watch(stream: TextIO) -> Watch:
    """Live progress where `stream` is a terminal, plain lines otherwise."""
    return RichWatch() if stream.isatty() else PlainWatch(stream)


class PlainWatch:
    """One line when a step begins and ends, and one every ten seconds in between: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0

    def begins(self, name: str, position: int, total: int, reasons: tuple[str, ...]) -> None:
        self._last = time.monotonic()
        self._say(f"[{position}/{total}] {name}: {reasons[0] if reasons else ''}".rstrip(": "))

    def event(self, name: str, event: Mapping[str, Json]) -> None:
        if event["event"] == "progress":
            if time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
                self._last = time.monotonic()
                self._say(f"    {name}: {event['done']}/{event['total']} {event['note']}".rstrip())
        elif event["event"] in ("warning", "waiting", "note"):
            self._say(f"    {name}: {event['text']}")

    def ends(self, name: str, status: str, seconds: float, summary: Mapping[str, Json]) -> None:
        self._say(f"    {name}: {status} in {seconds:.1f} s{_facts(summary)}")

    def close(self) -> None:
        return

    def _say(self, line: str) -> None:
        with suppress(OSError):  # that nobody reads the progress must not stop a build
            self._stream.write(line + "\n")
            self._stream.flush()


class RichWatch:
    """A bar for the running step; finished steps stay as lines above it."""

    def __init__(self) -> None:
        self._task: TaskID | None = None

    @cached_property
    def _progress(self) -> Progress:
        """Made when there is something to show: a build with nothing to do does not import rich."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),  # what is shown may have brackets of its own
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True, markup=False, emoji=False, highlight=False),
            transient=True,
        )
        progress.start()
        return progress

    def begins(self, name: str, position: int, total: int, reasons: tuple[str, ...]) -> None:
        note = reasons[0] if reasons else ""
        self._task = self._progress.add_task(f"[{position}/{total}] {name}", total=None, note=note)

    def event(self, name: str, event: Mapping[str, Json]) -> None:
        if self._task is None:
            return
        if event["event"] == "progress":
            self._progress.update(
                self._task, completed=_number(event["done"]), total=_number(event["total"]), note=str(event["note"])
            )
        elif event["event"] in ("warning", "waiting", "note"):
            self._progress.console.print(f"    {name}: {event['text']}")

    def ends(self, name: str, status: str, seconds: float, summary: Mapping[str, Json]) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._progress.console.print(f"  {name:<20} {status} in {seconds:.1f} s{_facts(summary)}")

    def close(self) -> None:
        if "_progress" in vars(self):
            self._progress.stop()


def _number(value: Any) -> float:
    return float(value)


def _facts(summary: Mapping[str, Json]) -> str:
    return f" ({summarized(summary)})" if any(value is not None for value in summary.values()) else ""
