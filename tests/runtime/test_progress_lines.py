"""Progress on a terminal is one line that changes; in a log it is a few lines, however many steps there are."""

from __future__ import annotations

import io

from enginewright_runtime.progress_lines import ProgressLines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_for_each_phase_and_one_every_five_seconds_for_its_steps() -> None:
    log, now = io.StringIO(), 0.0
    tell = ProgressLines(log, clock=lambda: now)
    tell("compiling the engine")
    for step in range(1000):
        now = step / 80
        tell(f"Building ({step} of 1000)")
    tell("measuring")
    tell.end()
    assert log.getvalue().splitlines() == [
        "compiling the engine",
        "  Building (400 of 1000)",
        "  Building (800 of 1000)",
        "measuring",
    ]


def test_on_a_terminal_steps_take_turns_on_one_line_and_nothing_of_it_stays() -> None:
    terminal = Terminal()
    tell = ProgressLines(terminal)
    for words in ("compiling", "Building (1 of 2)", "Building (2 of 2)", "measuring", "Building (1 of 2)"):
        tell(words)
    tell.end()
    erase = "\r\x1b[2K"
    assert terminal.getvalue() == (
        f"compiling\nBuilding (1 of 2){erase}Building (2 of 2){erase}measuring\nBuilding (1 of 2){erase}"
    )
