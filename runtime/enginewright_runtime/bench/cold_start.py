"""From the start of a process to its first answer, phase by phase, in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.record import BenchRecord
from enginewright_runtime.bench.subject import Subject
from enginewright_runtime.canonical import Json, strict_json
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.host import conditions
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.telemetry import Telemetry
from enginewright_runtime.worker_process import python_environment

PHASES = {
    "start_ns": "start of Python",
    "import_ns": "import of the runtime and numpy",
    "verify_ns": "verify the bundle",
    "load_ns": "load the library and the engine",
    "first_run_ns": "first inference",
}
_LATER = ("second_run_ns", "second_load_ns")
_LIMIT_S = 600.0

Starts = Callable[[Path], Mapping[str, int]]


def bench_cold_start(
    measured: Subject, *, sessions: int, on_progress: Callable[[int, int], None], start: Starts | None = None
) -> tuple[Answer, bytes]:
    """The answer and the record. `start` starts one process for a bundle and returns its phases."""
    taken: list[Mapping[str, int]] = []
    before = conditions()
    for done in range(sessions):
        on_progress(done, sessions)
        taken.append((start or start_once)(measured.bundle.path))
    on_progress(sessions, sessions)
    record = BenchRecord(
        kind="cold start",
        subject=measured.identity(),
        host=fingerprint_for([measured.engine.backend]),
        telemetry=Telemetry().to_json(),
        settings={},
        sessions=[
            *taken[:-1],
            {**taken[-1], "conditions_before": before, "conditions_after": conditions()},
        ],
    )
    return _answer(measured, taken), record.to_bytes()


def start_once(bundle: Path) -> dict[str, int]:
    """Start a process, wait for its first answer, and return its phases in nanoseconds."""
    module = "enginewright_runtime.bench.cold_start_process"
    begin = time.perf_counter_ns()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", module, str(bundle)],
            capture_output=True,
            check=False,
            env=python_environment(),
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{bundle}: no first answer within {_LIMIT_S:g} s") from None
    if ended.returncode != 0:
        words = ended.stderr.decode("utf-8", errors="replace").strip()
        raise MeasurementError(f"{bundle}: the process that was started ended with {ended.returncode}: {words[-2000:]}")
    found = JsonField(strict_json(ended.stdout), "the process that was started", MeasurementError)
    phases = {name: found.field(name).integer() for name in (*PHASES, *_LATER) if name != "start_ns"}
    return {"start_ns": found.field("started_ns").integer() - begin, **phases}


def total_ns(phases: Mapping[str, int]) -> int:
    """From the process's start to its first answer.

    >>> total_ns({"start_ns": 1, "import_ns": 2, "verify_ns": 3, "load_ns": 4, "first_run_ns": 5, "second_run_ns": 6})
    15
    """
    return sum(phases[name] for name in PHASES)


def _answer(measured: Subject, taken: Sequence[Mapping[str, int]]) -> Answer:
    figures = {name: [phases[name] for phases in taken] for name in (*PHASES, *_LATER)}
    totals = [total_ns(phases) for phases in taken]
    name = measured.bundle.manifest.name
    lines = [
        f"{name} on {measured.entry.fingerprint}: first answer after {_range(totals)}, {len(taken)} fresh processes",
        *(f"  {words:32} {_range(figures[phase])}" for phase, words in PHASES.items()),
        f"opened once more in the same process, without the library's import: {_range(figures['second_load_ns'])}; "
        f"second inference: {_range(figures['second_run_ns'])}",
    ]
    if len(totals) > 1:
        lines.append(
            f"the first of the processes took {totals[0] / 1e6:.4g} ms; "
            "the others may find its files in the system's cache"
        )
    json: dict[str, Json] = {
        **measured.identity(),
        "sessions": len(taken),
        "first_answer_ns": totals,
        "phases_ns": figures,
        "host": fingerprint_for([measured.engine.backend]),
    }
    return Answer(ExitCode.OK, json, lines)


def _range(values_ns: Sequence[int]) -> str:
    """The median and the extremes, for a handful of processes carry no percentile."""
    middle = f"{statistics.median(values_ns) / 1e6:.4g} ms"
    if len(values_ns) == 1:
        return middle
    return f"{middle} ({min(values_ns) / 1e6:.4g} to {max(values_ns) / 1e6:.4g})"
