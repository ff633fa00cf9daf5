"""One of several processes that train together. Started by `processes`, it reads its spec as one line of JSON on
standard input and tells events as JSON lines on standard output; when its standard input closes, whoever asked is gone,
and so is this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from enginewright.running import RunningStep
from enginewright.training.recovery import train
from enginewright.training.team import join
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.exit_codes import ExitCode

__all__ = ["main"]


def main() -> int:
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what the recipe's code prints must not end up between the events
    asked = os.fdopen(os.dup(0), encoding="utf-8")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches whoever asked, too, and that ends this process
    spec = json.loads(asked.readline())
    threading.Thread(target=_leave_with_parent, args=(asked,), daemon=True).start()
    leads = spec["rank"] == 0

    def tell(event: Mapping[str, Json]) -> None:
        events.write(json.dumps(event) + "\n")

    step = RunningStep(
        name=spec["name"],
        parameters=spec["parameters"],
        inputs={name: Path(path) for name, path in spec["inputs"].items()},
        staging=Path(spec["staging"]),
        unfinished=Path(spec["unfinished"]),
        code_folder=Path(spec["code_folder"]),
        tell=tell if leads else lambda event: None,  # all go through the same: one tells it
    )
    try:
        team = join(spec["rank"], spec["size"], meeting=Path(spec["meeting"]))
        summary = train(step, team)
    except Exception as error:  # the boundary of the process: told to the parent, never dropped
        tell(_failure(error))
        return ExitCode.BUG
    tell({"event": "done", "summary": summary})
    return ExitCode.OK


def _failure(error: Exception) -> dict[str, Json]:
    named = isinstance(error, EnginewrightError)
    return {
        "event": "failed",
        "type": type(error).__name__,
        "message": error.message if isinstance(error, EnginewrightError) else f"{type(error).__name__}: {error}",
        "hint": error.hint if isinstance(error, EnginewrightError) else "",
        "traceback": getattr(error, "traceback", "") if named else "".join(traceback.format_exception(error)),
        "errno": error.errno if isinstance(error, OSError) else None,
        "filename": str(error.filename) if isinstance(error, OSError) and error.filename else None,
    }


def _leave_with_parent(asked: TextIO) -> None:
    asked.read()
    os._exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
