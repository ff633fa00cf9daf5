"""The application's side of a watch: it notes how long each call took, and hands that on. Nothing else happens here.

Judging takes tens of milliseconds of Python now and then, which a thread of the application would take from its calls
through the interpreter's lock. So a process of its own judges, writes and serves (watch/process.py), and a call pays
for two readings of a clock and for a number in a queue. About twice a second one call writes the queue to a pipe, and
never waits there.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from enginewright_runtime.canonical import canonical_bytes
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.watch.rolling import FAILED, LOOPBACK, WatchRule
from enginewright_runtime.worker_process import python_environment

_HAND_ON_NS = 500_000_000
_MOST_AT_ONCE = select.PIPE_BUF // 8  # a pipe takes so much whole or not at all
_MOST_WAITING = 1 << 16  # calls; where the other process does not read, older ones are lost
_END_LIMIT_S = 30.0

_Given = TypeVar("_Given")
_Got = TypeVar("_Got")


class Watch:
    """Observes an application's calls and has them judged beside it; a context manager.

    `budget` is the bundle's, of which the latencies are judged. `lines` is where a JSON line goes for every judgement
    (None: nowhere; "-": standard output), `port` where 127.0.0.1 serves Prometheus (None: nowhere; 0: on a port that is
    free, which `port` then tells). Raises MeasurementError where either cannot be had. Observing never raises and never
    waits: where the other process has died, `running` is false and the calls go on unjudged.
    """

    def __init__(
        self,
        budget: Mapping[str, float],
        *,
        name: str = "",
        lines: str | Path | None = None,
        port: int | None = None,
        rule: WatchRule | None = None,
    ) -> None:
        self.running = True
        self._waiting: deque[int] = deque(maxlen=_MOST_WAITING)
        self._handing_on = threading.Lock()
        self._next_ns = time.perf_counter_ns() + _HAND_ON_NS
        with ExitStack() as ours:  # these are the other process's, and closed here once it has them
            file = None if lines is None else ours.enter_context(_open_lines(lines))
            listening = None if port is None else ours.enter_context(_listen(port))
            self.port: int | None = listening.getsockname()[1] if listening else None
            given = [one.fileno() for one in (file, listening) if one is not None]
            described = {
                "name": name,
                "budget": dict(budget),
                "lines": file.fileno() if file else None,
                "socket": listening.fileno() if listening else None,
                "rule": (rule or WatchRule()).to_json(),
            }
            self._process = _start(canonical_bytes(described).decode("utf-8"), given)
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def observed(self, run: Callable[[_Given], _Got]) -> Callable[[_Given], _Got]:
        """`run`, each of whose calls is observed. A call that raises counts as failed, and raises."""
        clock_ns, note, due = time.perf_counter_ns, self._waiting.append, self._hand_on_at

        def timed(given: _Given) -> _Got:
            begin = clock_ns()
            try:
                got = run(given)
            except Exception:
                note(FAILED)
                due(clock_ns())
                raise
            end = clock_ns()
            note(end - begin)
            due(end)
            return got

        return timed

    def observe(self, elapsed_ns: int) -> None:
        """Note a call that the application has timed itself."""
        self._waiting.append(elapsed_ns)
        self._hand_on_at(time.perf_counter_ns())

    def close(self) -> int:
        """Hand on what waits, have it judged, and return the other process's exit code: the verdict's over all of it."""
        stream = self._process.stdin
        assert stream is not None
        with self._handing_on:  # another thread may be at it, and a closed pipe's number is soon another file's
            if not stream.closed:
                if self.running:
                    os.set_blocking(self._pipe, True)
                    self._hand_on()
                stream.close()
            self.running = False
        try:
            return self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _hand_on_at(self, now_ns: int) -> None:
        if now_ns >= self._next_ns and self._handing_on.acquire(blocking=False):
            try:
                if self.running:
                    self._next_ns = now_ns + _HAND_ON_NS
                    self._hand_on()
            finally:
                self._handing_on.release()

    def _hand_on(self) -> None:
        """Write what waits, in pieces that a pipe takes whole or not at all."""
        waiting = self._waiting
        while waiting:
            piece = array("q", [waiting.popleft() for _ in range(min(len(waiting), _MOST_AT_ONCE))])
            try:
                os.write(self._pipe, piece.tobytes())
            except BlockingIOError:
                waiting.extendleft(reversed(piece))
                return
            except BrokenPipeError:
                self.running = False
                return


def _start(description: str, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "enginewright_runtime.watch.process", description],
        stdin=subprocess.PIPE,
        pass_fds=descriptors,
        env=python_environment(),
        # Ctrl-C goes to the whole process group: the application decides what then becomes of its watch.
        start_new_session=True,
    )


def _open_lines(lines: str | Path) -> BinaryIO:
    try:
        return os.fdopen(os.dup(1), "wb") if str(lines) == "-" else Path(lines).open("ab")
    except OSError as error:
        raise MeasurementError(f"{lines}: cannot be written: {error.strerror}") from None


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise MeasurementError(
            f"{LOOPBACK}:{port}: cannot be listened on: {error.strerror}", hint="choose another port"
        ) from None
