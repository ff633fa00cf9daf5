"""The parent's side of a worker: start it, ask it, and end it whatever happens."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from enginewright_runtime.canonical import Json, canonical_bytes, strict_json
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.json_field import JsonField

ANSWER_LIMIT_S = 600.0  # no request takes as long: opening a large engine takes a minute, and a warm-up is capped
_END_LIMIT_S = 5.0
_LONGEST_ANSWER = 1 << 22
_SHOWN_STDERR = 4_000
_PACKAGE_FOLDER = Path(__file__).resolve().parent.parent


class WorkerProcess:
    """A process of `enginewright_runtime.worker`, as a context manager; on leaving, it has ended."""

    def __init__(self, label: str, *, answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        self.label = label
        self._answer_limit_s = answer_limit_s
        self._received = bytearray()
        # A file and not a pipe: a library that writes more than a pipe holds would stop there for ever.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "enginewright_runtime.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=python_environment(),
            # Ctrl-C goes to the whole process group: this process alone decides what then becomes of the worker.
            start_new_session=True,
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, do: str, **parameters: Json) -> JsonField:
        """Send one request and wait for its answer; raises MeasurementError where there is none, or it says so."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(canonical_bytes({"do": do, **parameters}) + b"\n")
            self._process.stdin.flush()
            line = self._answer_line()
        except BrokenPipeError:
            line = b""
        if not line:
            raise self._died(do)
        try:
            answer = JsonField(strict_json(line), f"worker {self.label}: {do}", MeasurementError)
        except ValueError as error:
            raise MeasurementError(
                f"worker {self.label}: {do}: the answer is not JSON: {error}{self._stderr_tail()}"
            ) from None
        fields = answer.fields()
        if "error" in fields:
            hint = fields["hint"].text(longest=_LONGEST_ANSWER) if "hint" in fields else ""
            raise MeasurementError(f"{self.label}: {fields['error'].text(longest=_LONGEST_ANSWER)}", hint=hint)
        return answer

    def close(self, *, at_once: bool = False) -> None:
        """End the process: by the end of its input, or `at_once` by SIGKILL."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if at_once:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._end_status()
        self._process.stdout.close()
        self._stderr.close()

    def _answer_line(self) -> bytes:
        """The next line, without its end; empty where the process ended first."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + self._answer_limit_s
        while b"\n" not in self._received:
            if len(self._received) > _LONGEST_ANSWER:
                raise MeasurementError(f"worker {self.label}: the answer has no end{self._stderr_tail()}")
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise MeasurementError(
                    f"worker {self.label}: no answer within {self._answer_limit_s:g} s{self._stderr_tail()}"
                )
            if not (piece := os.read(descriptor, 1 << 16)):
                return b""
            self._received += piece
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line

    def _died(self, do: str) -> MeasurementError:
        status = self._end_status()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return MeasurementError(f"worker {self.label}: {how} when asked to {do}{self._stderr_tail()}")

    def _end_status(self) -> int:
        """The exit status of a process that is to end by itself, and is made to if it does not."""
        try:
            return self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _stderr_tail(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _SHOWN_STDERR))
        text = self._stderr.read().decode("utf-8", errors="replace").strip()
        return f"; its standard error ends:\n{text}" if text else "; it wrote nothing to its standard error"


def python_environment() -> dict[str, str]:
    """This process's environment, so changed that the worker finds this very package.

    PYTHONSAFEPATH (Python 3.11) keeps the folder that it starts in off its path, and any numpy.py that lies there.
    """
    paths = [str(_PACKAGE_FOLDER), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
