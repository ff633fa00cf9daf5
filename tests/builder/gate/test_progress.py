"""The interval as it narrows, on a terminal and in a log."""

from __future__ import annotations

import io
import sys

import pytest
from tests.builder.gate.gate_cases import decision_of

from enginewright.gate.progress import PlainGateWatch, RichGateWatch, interval_bar, watch_gate
from enginewright_runtime.sequential import Change, Limits


def change(low: float, value: float, high: float) -> Change:
    limits = Limits(0.01, 0.05)
    return Change(metric="centre", value=value, low=low, high=high, limits=limits, verdict=None)


@pytest.mark.parametrize(
    ("low", "value", "high", "bar"),
    [
        (-0.03, 0.0, 0.03, "       [--o|-] |     "),
        (0.02, 0.04, 0.06, "           |[-o|]    "),
        (-0.5, 0.0, 0.5, "<---------o|---|---->"),
        (0.2, 0.3, 0.4, "           |   |    o"),
    ],
)
def test_a_bar_shows_the_interval_between_the_two_limits(low: float, value: float, high: float, bar: str) -> None:
    assert interval_bar(change(low, value, high), width=21) == bar


def test_a_log_has_a_line_for_each_session_and_baseline() -> None:
    stream = io.StringIO()
    watch = watch_gate(stream)
    assert isinstance(watch, PlainGateWatch)
    watch.session({"baseline 1": None}, 7.0)
    watch.session({"baseline 1": decision_of(0.06)}, 83.0)
    watch.note("something")
    watch.close()
    first, second, third = stream.getvalue().splitlines()
    assert first == "    baseline 1: first session taken, 0:07"
    assert second.startswith("    baseline 1: session 8 of 40 at most, 1:23: centre +5.7")
    assert second.endswith("): FAIL")
    assert third == "    something"


def test_a_log_that_nobody_reads_does_not_stop_the_gate() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    PlainGateWatch(Broken()).session({"baseline": None}, 1.0)


def test_a_terminal_shows_a_bar_for_each_metric(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    watch = RichGateWatch()
    watch.session({"baseline": None}, 1.0)
    watch.session({"baseline": decision_of(0.06)}, 83.0)
    watch.close()
    shown = capsys.readouterr().err
    assert "baseline: session 8 of 40 at most" in shown
    assert "centre +5.7" in shown


def test_a_gate_that_shows_nothing_does_not_import_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    RichGateWatch().close()
