"""The stages of a delivery, told to whoever watches the build."""

from __future__ import annotations

from time import monotonic

from enginewright.device.address import DeviceAddress
from enginewright.progress import Watch

__all__ = ["STAGES", "Telling"]

STAGES = ("connect", "environment", "compile", "evaluate", "bring back")


class Telling:
    """Says what happens on a device, stage by stage, as a build says it of its steps."""

    def __init__(self, watch: Watch, address: DeviceAddress) -> None:
        self._watch = watch
        self._address = address
        self._stage = ""
        self._began = 0.0

    def begins(self, stage: str) -> None:
        """The stage before has ended well."""
        self.ends()
        self._stage, self._began = f"device/{stage}", monotonic()
        self._watch.begins(self._stage, STAGES.index(stage) + 1, len(STAGES), (str(self._address),))

    def ends(self) -> None:
        if self._stage:
            self._watch.ends(self._stage, "done", monotonic() - self._began, {})
            self._stage = ""

    def say(self, sentence: str) -> None:
        self._watch.event(self._stage, {"event": "note", "text": sentence})

    def progress(self, done: int, total: int, note: str) -> None:
        self._watch.event(self._stage, {"event": "progress", "done": done, "total": total, "note": note})
