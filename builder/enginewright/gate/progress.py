"""What the gate shows while it measures: the intervals as they narrow, live on a terminal, as plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TextIO

from enginewright_runtime.sequential import LOOKS, Change, Decision

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

__all__ = ["GateWatch", "PlainGateWatch", "RichGateWatch", "interval_bar", "watch_gate"]

_BAR_WIDTH = 41


class GateWatch(Protocol):
    """Hears of each session that was taken, with the decision on each baseline so far (None below two sessions)."""

    def session(self, decisions: Mapping[str, Decision | None], seconds: float) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


def watch_gate(stream: TextIO) -> GateWatch:
    """Live progress where `stream` is a terminal, plain lines otherwise."""
    return RichGateWatch() if stream.isatty() else PlainGateWatch(stream)


class PlainGateWatch:
    """A line for each session and baseline: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def session(self, decisions: Mapping[str, Decision | None], seconds: float) -> None:
        for label, decision in decisions.items():
            if decision is None:
                self._say(f"    {label}: first session taken, {_clock(seconds)}")
                continue
            changes = ", ".join(f"{change.metric} {_figures(change)}" for change in decision.changes)
            verdict = f": {decision.verdict.value}" if decision.verdict else ""
            self._say(f"    {label}: {_count(decision)}, {_clock(seconds)}: {changes}{verdict}")

    def note(self, text: str) -> None:
        self._say(f"    {text}")

    def close(self) -> None:
        return

    def _say(self, line: str) -> None:
        with suppress(OSError):  # that nobody reads the progress must not stop a gate
            self._stream.write(line + "\n")
            self._stream.flush()


class RichGateWatch:
    """A table that is drawn anew after each session: the interval of each metric between its two limits."""

    @cached_property
    def _live(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        live = Live(console=Console(stderr=True, markup=False, emoji=False, highlight=False), transient=True)
        live.start()
        return live

    def session(self, decisions: Mapping[str, Decision | None], seconds: float) -> None:
        self._live.update(_table(decisions, seconds))

    def note(self, text: str) -> None:
        self._live.console.print(f"    {text}")

    def close(self) -> None:
        if "_live" in vars(self):
            self._live.stop()


def interval_bar(change: Change, *, width: int = _BAR_WIDTH) -> str:
    """The interval as a line of text: 0 in the middle, "|" at the limits of FAIL and PASS, "o" the estimate.

    The axis goes to twice the PASS limit on either side; an interval that goes on beyond it ends in an arrow.
    """
    reach = 2 * change.limits.pass_within
    last = width - 1

    def column(share: float) -> int:
        return round(min(max(share / reach, -1.0), 1.0) * last / 2 + last / 2)

    cells = [" "] * width
    low, high = column(change.low), column(change.high)
    cells[low : high + 1] = ["-"] * (high + 1 - low)
    for limit in (change.limits.fail_beyond, change.limits.pass_within):
        cells[column(limit)] = "|"
    cells[low] = "<" if change.low < -reach else "["
    cells[high] = ">" if change.high > reach else "]"
    cells[column(change.value)] = "o"
    return "".join(cells)


def _table(decisions: Mapping[str, Decision | None], seconds: float) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, title=f"gate, {_clock(seconds)}", title_justify="left")
    for label, decision in decisions.items():
        if decision is None:
            table.add_row(Text(f"{label}: first session taken"))
            continue
        table.add_row(Text(f"{label}: {_count(decision)}"), Text("FAIL beyond the first |, PASS left of the second"))
        for change in decision.changes:
            style = {"PASS": "green", "FAIL": "red"}.get(change.verdict.value if change.verdict else "", "yellow")
            table.add_row(Text(f"  {change.metric} {_figures(change)}"), Text(interval_bar(change), style=style))
    return table


def _count(decision: Decision) -> str:
    return f"session {decision.sessions} of {LOOKS[-1]} at most"


def _figures(change: Change) -> str:
    high = f"{change.high:+.1%}" if change.high < 10 else "..."
    return f"{change.value:+.1%} ({change.low:+.1%} to {high})"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
