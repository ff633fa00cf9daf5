"""What the sensors said before and after a measurement, for its answer."""

from __future__ import annotations

from dataclasses import replace

from enginewright_runtime.answer import Answer
from enginewright_runtime.telemetry import Telemetry
from enginewright_runtime.telemetry.telemetry import reading_line


class Sensors:
    """Reads the sensors when it is made, and again when an answer is to tell of them. `meant`: the power mode that the
    budgets are of, where they are of one.
    """

    def __init__(self, telemetry: Telemetry | None = None, *, meant: str | None = None) -> None:
        self._telemetry = telemetry or Telemetry()
        self._meant = meant
        self._before = self._telemetry.read()

    def told_in(self, answer: Answer) -> Answer:
        """The answer with the readings under `telemetry`, and with lines on what stands out before its last one."""
        after = self._telemetry.read()
        found = {**self._telemetry.to_json(), "before": self._before.to_json(), "after": after.to_json()}
        throttled = after.throttled_since(self._before)
        lines = [f"  sensors at the end: {seen}"] if (seen := reading_line(after)) else []
        if throttled:
            times = ", ".join(f"{name} {count} times" for name, count in throttled.items())
            lines.append(f"  the clocks were throttled meanwhile: {times}")
        if mode := self._telemetry.power_mode:
            other = f": another than {self._meant}, which the budgets are of" if self._meant not in (None, mode) else ""
            lines.append(f"  power mode {mode}{other}")
        return replace(
            answer, json={**answer.json, "telemetry": found}, lines=[*answer.lines[:-1], *lines, *answer.lines[-1:]]
        )
