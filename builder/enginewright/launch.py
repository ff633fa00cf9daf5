"""Runs a step in a process of its own on this computer, and turns what it tells into progress, results and errors.

This is the seam where another engine may place steps on other machines: it needs the spec and the store's address,
nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from enginewright import errors
from enginewright.errors import EnginewrightError, NoSpace, StepCrashed, StepFailed, UserCodeError
from enginewright.worker import Spec
from enginewright_runtime import errors as runtime_errors
from enginewright_runtime.canonical import Json
from enginewright_runtime.exit_codes import ExitCode

__all__ = ["Launched", "launch"]

_GRACE_SECONDS = 5.0
_LAST_LINES = 30
_LAST_BYTES = 32_768
# Not -m, which puts the working folder first on the path of imports: a random.py there would stand in for Python's own.
# Where PYTHONSAFEPATH is set, it is not there to begin with.
_WORKER = "import sys; sys.path[:] = filter(None, sys.path); from enginewright.worker import main; sys.exit(main())"


@dataclass(frozen=True)
class Launched:
    """`built` is False where another build did the step while this one waited for it."""

    key: str
    built: bool


def launch(spec: Spec, *, on_event: Callable[[Mapping[str, Json]], None]) -> Launched:
    """Run one step and wait for it. `on_event` sees its progress and warnings.

    Raises the step's own error (a UserCodeError, a DataError, ...), or StepFailed where the process died without a
    word. On Ctrl-C the process is ended before KeyboardInterrupt goes on.
    """
    with _noise() as noise:
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
        )
        try:
            return _follow(process, spec, noise, on_event)
        finally:
            if process.stdin:
                with suppress(BrokenPipeError):  # it left before it read all of its spec
                    process.stdin.close()  # the process leaves when its standard input ends
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()


def _noise() -> IO[str]:
    """Where the process and the recipe's code write what they have to say."""
    try:
        return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise NoSpace(
            f"no temporary file can be made: {error.strerror}", hint="free some space there, or set TMPDIR elsewhere"
        ) from error


def _follow(
    process: subprocess.Popen[str], spec: Spec, noise: IO[str], on_event: Callable[[Mapping[str, Json]], None]
) -> Launched:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(spec.to_json()) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise _died(process, spec, noise) from None
    built = True
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "done":
            return Launched(event["key"], built)
        if event["event"] == "failed":
            raise _error(event, spec)
        built = built and event["event"] != "reused"
        on_event(event)
    raise _died(process, spec, noise)


def _error(event: Mapping[str, str], spec: Spec) -> EnginewrightError:
    """The step's own error again, of the class that it had in its process."""
    message, hint, text = f"step '{spec.name}': {event['message']}", event["hint"], event["traceback"]
    kind = getattr(errors, event["type"], None) or getattr(runtime_errors, event["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, EnginewrightError)):
        return StepCrashed(message, traceback=text)
    if issubclass(kind, (UserCodeError, StepFailed)):
        return kind(message, traceback=text, hint=hint)
    return kind(message, hint=hint)


def _died(process: subprocess.Popen[str], spec: Spec, noise: IO[str]) -> StepFailed:
    status = process.wait()
    if status in (ExitCode.INTERRUPTED, -signal.SIGINT):  # the latter while a library computes that hears nothing else
        raise KeyboardInterrupt
    noise.seek(max(0, os.fstat(noise.fileno()).st_size - _LAST_BYTES))
    lines = noise.read().splitlines()[-_LAST_LINES:]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status} and no word"
    hint = (
        "if the kernel killed it for its memory (dmesg says so), give the machine more, or lower batch sizes"
        if status == -9
        else ""
    )
    said = "".join(f"\n    {line}" for line in lines)
    return StepFailed(
        f"step '{spec.name}': its process {how}" + (f"; its last lines were:{said}" if said else ""), hint=hint
    )
