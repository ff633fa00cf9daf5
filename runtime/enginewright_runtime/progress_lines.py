"""How far a command is, on its standard error: one line that changes on a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["ProgressLines"]

_EVERY_SECONDS = 5.0  # a build of TensorRT tells thousands of steps
_COUNTED = re.compile(r"\(\d+ of \d+\)$")
_ERASE = "\r\x1b[2K"


class ProgressLines:
    """Takes what is being done, in words, and from several threads; a step of many ends in "(3 of 70)".

    What is not a step of many is always a line of its own. On a terminal the steps take turns on one line; elsewhere one
    of them is told every five seconds.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty()
        self._told = clock()
        self._open = ""  # the line that is not ended yet
        self._lock = threading.Lock()

    def __call__(self, words: str) -> None:
        with self._lock:
            if not _COUNTED.search(words):
                self._told = self._clock()
                self._write(f"{words}\n")
            elif self._terminal:
                self._write(words)
            elif self._clock() - self._told >= _EVERY_SECONDS:
                self._told = self._clock()
                self._write(f"  {words}\n")

    def end(self) -> None:
        """Leave nothing of a line that is not ended."""
        with self._lock:
            self._write("")

    def _write(self, text: str) -> None:
        erase = _ERASE if self._open else ""
        self._open = "" if text.endswith("\n") else text
        self._stream.write(erase + text)
        self._stream.flush()
