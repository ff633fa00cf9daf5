"""What a build shows while it runs: plain lines for logs, a live line on a terminal, and nothing on standard output."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from enginewright.progress import PlainWatch, RichWatch, watch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("enginewright.progress.time.monotonic", clock)
    return clock


def progress(done: int, total: int, note: str = "") -> dict[str, Any]:
    return {"event": "progress", "done": done, "total": total, "note": note}


def test_a_log_has_a_line_when_a_step_begins_and_ends_with_the_reason_and_the_result(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainWatch(stream)
    plain.begins("reference/export", 2, 15, ("file weights changed: 12 -> 34", "tool torch changed: 2 -> 3"))
    plain.ends("reference/export", "built", 3.14159, {"opset": 18, "largest_difference": 2.5e-07})
    plain.begins("prune", 3, 15, ())
    plain.ends("prune", "reused", 0.04, {})
    plain.close()
    assert stream.getvalue() == (
        "[2/15] reference/export: file weights changed: 12 -> 34\n"
        "    reference/export: built in 3.1 s (opset 18, largest difference 2.5e-07)\n"
        "[3/15] prune\n"
        "    prune: reused in 0.0 s\n"
    )


def test_a_summary_shows_numbers_as_people_read_them_and_leaves_out_what_is_not_there() -> None:
    stream = io.StringIO()
    summary = {"macs_before": 144_000_000, "removed": 0.49876543, "method": "entropy", "lowest_snr_db": None, "n": 0}
    PlainWatch(stream).ends("prune", "built", 1.0, summary)
    assert stream.getvalue() == (
        "    prune: built in 1.0 s (macs before 144,000,000, removed 0.499, method entropy, n 0)\n"
    )


def test_a_long_step_gives_a_log_one_line_every_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainWatch(stream)
    plain.begins("recover", 7, 15, ())
    for second in range(35):
        clock.now = 1000.0 + second
        plain.event("recover", progress(second, 100, "loss 0.5"))
    assert stream.getvalue() == (
        "[7/15] recover\n    recover: 11/100 loss 0.5\n    recover: 22/100 loss 0.5\n    recover: 33/100 loss 0.5\n"
    )


def test_the_ten_seconds_count_from_the_beginning_of_each_step(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainWatch(stream)
    plain.begins("prune", 6, 15, ())
    clock.now += 9
    plain.begins("recover", 7, 15, ())
    clock.now += 9
    plain.event("recover", progress(1, 2))
    assert stream.getvalue() == "[6/15] prune\n[7/15] recover\n"


def test_warnings_and_waiting_are_said_at_once(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainWatch(stream)
    plain.event("recover", {"event": "warning", "text": "no epoch was better"})
    plain.event("recover", {"event": "waiting", "text": "another build is doing this step"})
    assert stream.getvalue() == "    recover: no epoch was better\n    recover: another build is doing this step\n"


def test_every_line_is_there_before_the_next_step_runs() -> None:
    class Stream(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    PlainWatch(stream).begins("import", 1, 15, ())
    assert stream.flushed == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes standard error a terminal of 100 columns; called in the test, after pytest has put its own there."""

    def to_terminal() -> Terminal:
        terminal = Terminal()
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr("sys.stderr", terminal)
        return terminal

    return to_terminal


def test_a_log_gets_plain_lines_and_a_terminal_a_live_one(attach: Callable[[], Terminal]) -> None:
    terminal = attach()
    assert isinstance(watch(io.StringIO()), PlainWatch)
    live = watch(terminal)
    live.close()
    assert isinstance(live, RichWatch)


def test_on_a_terminal_finished_steps_and_warnings_stay_and_standard_output_gets_nothing(
    attach: Callable[[], Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = attach()
    live = RichWatch()
    live.begins("reference/export", 2, 15, ("it was never built",))
    live.event("reference/export", progress(1, 4, "epoch 1/2"))
    live.event("reference/export", {"event": "warning", "text": "no epoch was better"})
    live.ends("reference/export", "built", 3.14, {"opset": 18})
    live.close()
    lines = [line.strip() for line in terminal.getvalue().replace("\r", "\n").split("\n")]
    assert any(line.endswith("reference/export: no epoch was better") for line in lines)
    assert any(line.endswith("reference/export     built in 3.1 s (opset 18)") for line in lines)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["keep changed: [] -> [/head]", "[red]file[/red] [bold", "[link=x]y", ":smile: [0]"])
def test_brackets_in_what_is_shown_are_no_markup(text: str, attach: Callable[[], Terminal]) -> None:
    terminal = attach()
    live = RichWatch()
    live.begins("[b]step[/b]", 1, 2, (text,))
    live._progress.refresh()
    live.event("[b]step[/b]", progress(1, 4, text))
    live._progress.refresh()
    live.event("[b]step[/b]", {"event": "warning", "text": text})
    live.ends("[b]step[/b]", "built", 1.0, {"text": text})
    live.close()
    assert terminal.getvalue().count(text) >= 3
    assert "[b]step[/b]" in terminal.getvalue()


def test_an_event_of_a_step_that_has_not_begun_is_no_error(attach: Callable[[], Terminal]) -> None:
    attach()
    live = RichWatch()
    live.event("import", progress(1, 2))
    live.close()


def test_a_build_with_nothing_to_show_does_not_import_rich() -> None:
    program = (
        "import sys; from enginewright.progress import RichWatch; RichWatch().close(); print('rich' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert shown.stdout == "False\n"
