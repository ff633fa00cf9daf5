"""The process that judges beside an application: ``python -m enginewright_runtime.watch.process DESCRIPTION``.

Standard input has the calls' nanoseconds, eight bytes each in the machine's order. It ends when they do, judges once
more, and exits with the code of the worst verdict: 1 where a window missed a budget, 0 where one kept them all, else 4.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable, Mapping

from enginewright_runtime.budget import Verdict
from enginewright_runtime.canonical import Json, canonical_bytes, strict_json
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.telemetry import Telemetry
from enginewright_runtime.watch.prometheus import Page, exposition, serve
from enginewright_runtime.watch.rolling import Judgement, RollingWindow, WatchRule


class Guard:
    """Judges a rolling window, writes a line a judgement, and keeps the page for Prometheus.

    `write` takes a line with its end.
    """

    def __init__(
        self,
        name: str,
        window: RollingWindow,
        telemetry: Telemetry,
        *,
        write: Callable[[bytes], None] | None,
        page: Page,
    ) -> None:
        self.window = window
        self.verdicts: set[Verdict] = set()
        self._name = name
        self._telemetry = telemetry
        self._write = write
        self._page = page
        self._last = telemetry.read()

    def judge(self, at_s: float, steady_s: float) -> Judgement:
        """Judge now; `at_s` is the time in seconds since 1970, `steady_s` that of a clock that is never set."""
        judgement = self.window.judge(at_s, steady_s)
        self.verdicts.add(judgement.verdict)
        reading = self._telemetry.read()
        if self._write:
            line: Mapping[str, Json] = {
                **judgement.to_json(),
                "bundle": self._name,
                **reading.to_json(),
                "throttled": reading.throttled_since(self._last),
            }
            self._write(canonical_bytes(line) + b"\n")
        self._page.text = exposition(self._name, judgement, reading)
        self._last = reading
        return judgement

    @property
    def exit_code(self) -> ExitCode:
        """What all judgements come to."""
        worst = next((one for one in (Verdict.FAIL, Verdict.PASS) if one in self.verdicts), Verdict.INCONCLUSIVE)
        return worst.exit_code


def main() -> int:
    """Judge until the calls end."""
    described = JsonField(strict_json(sys.argv[1].encode("utf-8")), "watch", MeasurementError)
    rule = WatchRule.from_json(described.field("rule"))
    window = RollingWindow(described.field("budget").numbers(), rule)
    page = Page()
    write = _writer(described.field("lines"))
    guard = Guard(described.field("name").text(), window, Telemetry(), write=write, page=page)
    if described.field("socket").value is not None:
        serve(page, socket.socket(fileno=described.field("socket").integer()))
    calls = os.dup(0)
    due = time.monotonic() + rule.every_s
    while (piece := _calls_until(calls, due)) is not None:
        window.add(piece)
        if time.monotonic() >= due:
            guard.judge(time.time(), time.monotonic())
            due += rule.every_s
    guard.judge(time.time(), time.monotonic())
    return guard.exit_code


def _calls_until(calls: int, due: float) -> array[int] | None:
    """The next calls, none where `due` comes first; None where they have ended."""
    ready, _, _ = select.select([calls], [], [], max(due - time.monotonic(), 0.0))
    if not ready:
        return array("q")
    piece = os.read(calls, 1 << 16)
    while len(piece) % 8:  # a pipe may be read in the middle of a number
        if not (rest := os.read(calls, 8 - len(piece) % 8)):
            return None  # the application died before it wrote the rest
        piece += rest
    return array("q", piece) if piece else None


def _writer(lines: JsonField) -> Callable[[bytes], None] | None:
    """Each line is written at once and whole: it is there when the application or this process is killed."""
    if lines.value is None:
        return None
    stream = open(lines.integer(), "ab", buffering=0)  # noqa: SIM115, PTH123 (a descriptor, open as long as we run)

    def write(line: bytes) -> None:
        stream.write(line)

    return write


if __name__ == "__main__":
    sys.exit(main())
