"""Starts the processes that train together, passes on what the first of them tells, and ends them all where one fails,
where this process is interrupted, or where it is no more.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from enginewright import errors
from enginewright.errors import StepCrashed, StepFailed, UserCodeError
from enginewright.running import RunningStep
from enginewright_runtime import errors as runtime_errors
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import EnginewrightError

__all__ = ["train_in_processes"]

_GRACE_SECONDS = 5.0
_SECONDS_FOR_LAST_WORDS = 2.0
# As in enginewright.launch: not -m, which puts the working folder first on the path of imports.
_PROCESS = (
    "import sys; sys.path[:] = filter(None, sys.path); from enginewright.training.process import main; sys.exit(main())"
)

Event = Mapping[str, Any]


def train_in_processes(step: RunningStep, count: int) -> dict[str, Json]:
    """Train as `recovery.train` does, in `count` processes of this computer. Returns the summary.

    Raises the error of the process that failed, or StepFailed where one died without a word.
    """
    with tempfile.TemporaryDirectory() as folder, _started(step, count, Path(folder) / "meeting") as processes:
        return _Crew(processes).follow(step)


@contextmanager
def _started(step: RunningStep, count: int, meeting: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes; behind the block, they have ended."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank in range(count):
            processes.append(_start(step, rank, count, meeting))
        yield processes
    finally:
        for process in processes:
            with suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.close()  # the process leaves when its standard input ends
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(step: RunningStep, rank: int, count: int, meeting: Path) -> subprocess.Popen[str]:
    spec = {
        "rank": rank,
        "size": count,
        "meeting": str(meeting),
        "name": step.name,
        "parameters": step.parameters,
        "inputs": {name: str(path) for name, path in step.inputs.items()},
        "staging": str(step.staging),
        "unfinished": str(step.unfinished),
        "code_folder": str(step.code_folder),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(rank, count),
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once, which its end will tell
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()
    return process


def _environment(rank: int, count: int) -> dict[str, str]:
    """RANK and WORLD_SIZE are where code that knows torchrun looks. All processes are on this computer: what they tell
    each other stays on its loopback, unless the user knows better.
    """
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    network = {"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}
    return {**network, **os.environ, "RANK": str(rank), "WORLD_SIZE": str(count)}


class _Crew:
    """Running processes, by rank, and what they tell."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes
        self._running = set(range(len(processes)))
        self._told: SimpleQueue[tuple[int, Event | None]] = SimpleQueue()
        self._failures: dict[int, Exception] = {}  # in the order in which they were told
        for rank in self._running:
            threading.Thread(target=self._listen, args=(rank,), daemon=True).start()

    def follow(self, step: RunningStep) -> dict[str, Json]:
        """Pass on what is told until all have ended. Returns the summary of the first."""
        summary: dict[str, Json] = {}
        while self._running:
            event = self._next(timeout=None)
            if self._failures:
                raise self._cause()
            if event is not None and event["event"] == "done":
                summary = event["summary"] or summary
            elif event is not None:
                step.tell(event)
        return summary

    def _listen(self, rank: int) -> None:
        stream = self._processes[rank].stdout
        assert stream is not None
        with stream:
            for line in stream:
                self._told.put((rank, json.loads(line)))
        self._told.put((rank, None))

    def _next(self, timeout: float | None) -> Event | None:
        """What is told next; None where it is a failure or the end of a process, which are noted."""
        rank, event = self._told.get(timeout=timeout)
        if event is None:
            self._running.discard(rank)
            status = self._processes[rank].wait()
            if status != 0:
                self._failures.setdefault(rank, _died(rank, len(self._processes), status))
        elif event["event"] == "failed":
            self._failures[rank] = _error(event)
            event = None
        return event

    def _cause(self) -> Exception:
        """The first failure with a name. Processes that lose another one fail as well, but only because it is gone."""
        deadline = time.monotonic() + _SECONDS_FOR_LAST_WORDS
        with suppress(Empty):
            while self._running:
                self._next(timeout=max(0.0, deadline - time.monotonic()))
        return min(self._failures.values(), key=lambda failure: isinstance(failure, StepCrashed))


def _error(event: Event) -> Exception:
    """The process's own error again, of the class that it had there."""
    message, hint, text = event["message"], event["hint"], event["traceback"]
    if event["errno"] is not None:  # the machine's refusals are explained by whoever runs the step
        return OSError(event["errno"], os.strerror(event["errno"]), event["filename"])
    if event["type"] == "MemoryError":
        return MemoryError(message)
    kind = getattr(errors, event["type"], None) or getattr(runtime_errors, event["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, EnginewrightError)):
        return StepCrashed(message, traceback=text)
    if issubclass(kind, (UserCodeError, StepFailed)):
        return kind(message, traceback=text, hint=hint)
    return kind(message, hint=hint)


def _died(rank: int, count: int, status: int) -> StepFailed:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status} and no word"
    hint = (
        "if the kernel killed it for its memory (dmesg says so), lower processes or batch_size" if status == -9 else ""
    )
    return StepFailed(f"training process {rank + 1} of {count} {how}", hint=hint)
