"""Runs one step, alone, from its spec and a store: `python -m enginewright.worker < spec.json`.

The spec is one line of JSON on standard input, which then stays open: when it closes, whoever asked is gone, and so is
this process. Events go to standard output as JSON lines; whatever the recipe's own code prints goes to standard error.
No live object passes between steps.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from enginewright.errors import DataError, NoSpace, StepFailed, StoreError
from enginewright.freshness import unusable
from enginewright.record import Ingredients, Record
from enginewright.running import Outcome, RunningStep
from enginewright.sources import FILES, Source, place_sources
from enginewright.stages import STAGES
from enginewright.store import Store
from enginewright_runtime.canonical import Json, sha256_file
from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.exit_codes import ExitCode

__all__ = ["Spec", "run_step"]

_HOLDS_LOCK = threading.Event()  # set while this process holds the lock of its step, and so owns its staging folder

Tell = Callable[[Mapping[str, Json]], None]


@dataclass(frozen=True)
class Spec:
    """Everything that a process needs to run one step. `locations` says where each source lies on this computer."""

    name: str
    ingredients: Ingredients
    locations: Mapping[str, str]
    store: Path
    project: Path
    code_folder: Path

    def to_json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "ingredients": self.ingredients.to_json(),
            "locations": dict(self.locations),
            "store": str(self.store),
            "project": str(self.project),
            "code_folder": str(self.code_folder),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Spec:
        return cls(
            name=content["name"],
            ingredients=Ingredients(**content["ingredients"]),
            locations=content["locations"],
            store=Path(content["store"]),
            project=Path(content["project"]),
            code_folder=Path(content["code_folder"]),
        )


def run_step(spec: Spec, *, tell: Tell) -> Record:
    """Run the step unless its record is there by the time its lock is held. Returns the record, which is in the store."""
    store = Store(spec.store)
    key = spec.ingredients.key
    waiting: Mapping[str, Json] = {"event": "waiting", "text": "another build is doing this step"}
    with store.in_use(), store.lock(key, on_wait=lambda: tell(waiting)):
        _HOLDS_LOCK.set()
        record = store.record(key)
        if record and not unusable(record, store.damage):
            tell({"event": "reused"})
            return record
        return _run(spec, store, tell)


def _run(spec: Spec, store: Store, tell: Tell) -> Record:
    ingredients = spec.ingredients
    stage = STAGES[ingredients.stage]
    staging = store.staging(ingredients.key)
    with store.writing():
        staging.mkdir(parents=True, exist_ok=True)
    warnings: list[str] = []

    def tell_and_keep(event: Mapping[str, Json]) -> None:
        if event["event"] == "warning":
            warnings.append(str(event["text"]))
        tell(event)

    sources = {label: Source(digest, spec.locations[label]) for label, digest in ingredients.sources.items()}
    parameters = place_sources(dict(ingredients.parameters), sources)
    assert isinstance(parameters, dict)
    step = RunningStep(
        name=spec.name,
        parameters=parameters,
        inputs={
            **_inputs(store, ingredients),
            **{label: Path(sources[label].location) for label in FILES if label in sources},
        },
        staging=staging,
        unfinished=store.unfinished(ingredients.key),
        code_folder=spec.code_folder,
        tell=tell_and_keep,
        history=tuple(_recorded(store, key) for key in ingredients.history.values()),
    )
    started = time.perf_counter()
    outcome: Outcome = importlib.import_module(stage.module).run(step)
    _refuse_changed(sources)
    outputs = {name: store.add(step.output(name), kind=kind) for name, kind in stage.produces.items()}
    seconds = time.perf_counter() - started
    record = Record(spec.name, ingredients, outputs, seconds, outcome.summary, tuple(warnings), outcome.provisional)
    store.write_record(record)
    shutil.rmtree(step.unfinished, ignore_errors=True)
    return record


def _inputs(store: Store, ingredients: Ingredients) -> dict[str, Path]:
    paths = {name: store.object_path(digest) for name, digest in ingredients.inputs.items()}
    for name, path in paths.items():
        if not path.exists() or sha256_file(path) != ingredients.inputs[name]:
            raise StoreError(
                f"the input '{name}' in the store is missing or damaged: {path}", hint="build again: it will be remade"
            )
    return paths


def _recorded(store: Store, key: str) -> Record:
    record = store.record(key)
    if record is None:
        raise StoreError(
            f"the record of an earlier step is gone from the store: {key}", hint="build again: it will be remade"
        )
    return record


def _refuse_changed(sources: Mapping[str, Source]) -> None:
    """A source that was edited while the step ran would be stored under the key of what it was before."""
    for label, source in sources.items():
        path = Path(source.location)
        if path.is_file() and sha256_file(path) != source.digest:
            raise DataError(f"{path} ({label}) changed while the step was using it", hint="build again")


def main() -> int:
    """Run the step whose spec comes on standard input; tell events on what was standard output."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what the recipe's code prints must not end up between the events
    asked = os.fdopen(os.dup(0), encoding="utf-8")
    with Path(os.devnull).open("rb") as nothing:  # the recipe's code must not wait for an answer, or close what we read
        os.dup2(nothing.fileno(), 0)
    spec = Spec.from_json(json.loads(asked.readline()))
    staging = Store(spec.store).staging(spec.ingredients.key)
    threading.Thread(target=_leave_with_parent, args=(asked, staging), daemon=True).start()
    os.chdir(spec.project)
    # Official builds of ONNX Runtime report home unless they are told not to before they are loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        record = run_step(spec, tell=lambda event: _write(events, event))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # the boundary of the process: told to the parent, never dropped
        return _fail(events, _explained(error, spec.store))
    _write(events, {"event": "done", "key": record.key})
    return ExitCode.OK


def _explained(error: Exception, store: Path) -> Exception:
    """What the machine refused, as an error that says what to do; any other error as it is."""
    number = error.errno if isinstance(error, OSError) else None
    place = str(getattr(error, "filename", None) or store)
    # safetensors, torch and ONNX Runtime have errors of their own, which quote the operating system.
    quoted = not isinstance(error, EnginewrightError) and os.strerror(errno.ENOSPC) in str(error)
    if number in (errno.ENOSPC, errno.EDQUOT) or quoted:
        return NoSpace(f"no space left on the disk: {place}", hint="free some space and build again")
    if isinstance(error, MemoryError):
        return StepFailed(
            f"the memory of this machine is not enough: {error}".rstrip(": "),
            hint="give the machine more memory, or make batches or samples smaller",
        )
    if isinstance(error, OSError) and Path(place).is_relative_to(store):
        return StoreError(
            f"the store cannot be used: {place}: {error.strerror}",
            hint="was the store removed while the build ran? Build again",
        )
    return error


def _fail(events: TextIO, error: Exception) -> int:
    ours = not isinstance(error, EnginewrightError)
    event: dict[str, Json] = {
        "event": "failed",
        "type": type(error).__name__,
        "message": error.message if isinstance(error, EnginewrightError) else f"{type(error).__name__}: {error}",
        "hint": error.hint if isinstance(error, EnginewrightError) else "",
        "traceback": "".join(traceback.format_exception(error)) if ours else getattr(error, "traceback", ""),
    }
    _write(events, event)
    return ExitCode.BUG if ours else ExitCode.USAGE


def _write(events: TextIO, event: Mapping[str, Json]) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


def _leave_with_parent(asked: TextIO, staging: Path) -> None:
    """Standard input ends when the parent is gone, even where it was killed. Then nobody waits for this step."""
    asked.read()
    if staging.exists() and _HOLDS_LOCK.is_set():
        shutil.rmtree(staging, ignore_errors=True)
    os._exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
