"""A long run: whether latency or memory drifts, how warm the machine gets, and what its clocks do.

One process runs inferences back to back, or at a camera's rate, through windows of time. After each window the sensors
are read. What is kept of a window is its samples, up to a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.arrivals import Arrivals
from enginewright_runtime.bench.drift import LEAST_POINTS, Drift, drift
from enginewright_runtime.bench.percentiles import percentile_lines, percentiles_ns
from enginewright_runtime.bench.record import BenchRecord
from enginewright_runtime.bench.subject import Subject
from enginewright_runtime.bench.tasks import MOST_SAMPLES
from enginewright_runtime.bench.workers import WARM_UP, warm_worker
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.sysfs import read_resident_bytes
from enginewright_runtime.telemetry import Reading, Telemetry
from enginewright_runtime.telemetry.telemetry import reading_line
from enginewright_runtime.warm_up import WarmUpRule
from enginewright_runtime.worker_process import WorkerProcess

_WINDOWS = 200  # of a soak whose windows are not at one of their limits
_LEAST_WINDOW_NS, _MOST_WINDOW_NS = 1_000_000_000, 300_000_000_000  # a worker answers within ten minutes
_MOST_KEPT = 2_000  # samples of a window


@dataclass(frozen=True)
class Window:
    """A window of a soak. `at_ns` is its end from the soak's beginning, `count` the inferences that ran in it.

    `samples_ns` has the first of them, and `median_ns` is of more than these.
    """

    at_ns: int
    median_ns: float
    samples_ns: tuple[int, ...]
    count: int
    resident_bytes: int | None
    reading: Reading

    def to_json(self) -> dict[str, Json]:
        """The window as a JSON object."""
        return {**vars(self), "reading": self.reading.to_json()}


def bench_soak(
    measured: Subject,
    *,
    soak_seconds: float,
    rate_hz: float | None,
    warm_up: WarmUpRule = WARM_UP,
    telemetry: Telemetry | None = None,
    on_progress: Callable[[int, int], None],
) -> tuple[Answer, bytes]:
    """The answer and the record. `on_progress`: the windows that are over, and how many there are."""
    telemetry = telemetry or Telemetry()
    window_ns, count = windows_of(soak_seconds)
    with warm_worker(measured, "engine", warm_up=warm_up) as worker:
        taken: list[Window] = []
        at_first = telemetry.read()
        begin = time.monotonic_ns()
        for done in range(count):
            on_progress(done, count)
            taken.append(_take_window(worker, window_ns, rate_hz, telemetry, begin))
        on_progress(count, count)
    settings: dict[str, Json] = {"soak_seconds": soak_seconds, "window_ns": window_ns, "rate_hz": rate_hz}
    record = BenchRecord(
        kind="soak",
        subject=measured.identity(),
        host=fingerprint_for([measured.engine.backend]),
        telemetry=telemetry.to_json(),
        settings=settings,
        sessions=[{"windows": [window.to_json() for window in taken]}],
    )
    return _answer(measured, settings, taken, telemetry, at_first), record.to_bytes()


def windows_of(soak_seconds: float) -> tuple[int, int]:
    """The length of a window in nanoseconds, and how many of them a soak has.

    >>> windows_of(10), windows_of(7200), windows_of(86400)
    ((1000000000, 10), (36000000000, 200), (300000000000, 288))
    """
    window_ns = min(max(round(soak_seconds * 1e9 / _WINDOWS), _LEAST_WINDOW_NS), _MOST_WINDOW_NS)
    return window_ns, max(round(soak_seconds * 1e9 / window_ns), 1)


def drift_of(taken: Sequence[Window], figure: Callable[[Window], float]) -> Drift | None:
    """How a figure changes from the first window to the last, as a share of its middle; None for too few windows."""
    values = [figure(window) for window in taken]
    middle = float(np.median(values)) or 1.0
    length_ns = (taken[-1].at_ns - taken[0].at_ns) or 1
    try:
        return drift([window.at_ns / length_ns for window in taken], [value / middle for value in values])
    except NotEnoughSamples:
        return None


def _take_window(
    worker: WorkerProcess, window_ns: int, rate_hz: float | None, telemetry: Telemetry, begin: int
) -> Window:
    if rate_hz is None:
        answer = worker.ask("window", duration_ns=window_ns)
        samples, count = answer.field("samples_ns").integers(), answer.field("count").integer()
    else:
        samples = _arriving(worker, max(round(window_ns * rate_hz / 1e9), 1), round(1e9 / rate_hz))
        count = len(samples)
    return Window(
        time.monotonic_ns() - begin,
        float(np.median(samples)),
        samples[:_MOST_KEPT],
        count,
        read_resident_bytes(worker.pid),
        telemetry.read(),
    )


def _arriving(worker: WorkerProcess, frames: int, period_ns: int) -> tuple[int, ...]:
    """What the inferences of so many frames took, asked for in pieces that an answer holds."""
    samples: list[int] = []
    for first in range(0, frames, MOST_SAMPLES):
        piece = worker.ask("arrivals", period_ns=period_ns, frames=min(MOST_SAMPLES, frames - first))
        samples += Arrivals.from_json(piece).services_ns()
    return tuple(samples)


def _answer(
    measured: Subject, settings: dict[str, Json], taken: Sequence[Window], telemetry: Telemetry, at_first: Reading
) -> Answer:
    pooled = [sample for window in taken for sample in window.samples_ns]
    resident = [window for window in taken if window.resident_bytes is not None]
    latency = drift_of(taken, lambda window: window.median_ns)
    memory = drift_of(resident, lambda window: float(window.resident_bytes or 0)) if resident else None
    throttled = taken[-1].reading.throttled_since(at_first)
    rate = "back to back" if settings["rate_hz"] is None else f"at {settings['rate_hz']:g} Hz"
    seconds = taken[-1].at_ns / 1e9
    lines = [
        f"{measured.bundle.manifest.name} on {measured.entry.fingerprint}: "
        f"{sum(window.count for window in taken)} inferences in {seconds:.0f} s {rate}, one process",
        *percentile_lines(pooled),
        drift_line("latency", latency, len(taken)),
        drift_line("resident memory", memory, len(resident)),
        *_sensor_lines(taken, telemetry),
    ]
    if taken[-1].reading.throttles:
        seen = ", ".join(f"{name} {count} times" for name, count in throttled.items())
        lines.append(f"throttled: {seen or 'never'}")
    json: dict[str, Json] = {
        **measured.identity(),
        **settings,
        "inferences": sum(window.count for window in taken),
        "latency_ns": percentiles_ns(pooled),
        "latency_drift": _drift_json(latency),
        "memory_drift": _drift_json(memory),
        "windows": [
            {
                "at_ns": window.at_ns,
                "median_ns": window.median_ns,
                "count": window.count,
                "resident_bytes": window.resident_bytes,
                **window.reading.to_json(),
            }
            for window in taken
        ],
        "throttled": throttled,
        "telemetry": telemetry.to_json(),
        "host": fingerprint_for([measured.engine.backend]),
    }
    return Answer(ExitCode.OK, json, lines)


def drift_line(what: str, found: Drift | None, windows: int) -> str:
    """A drift in words.

    >>> drift_line("latency", Drift(-0.01, 0.002, 0.013), 60)
    'latency: no drift is certain, +0.2 % from the first window to the last (-1.0 to +1.3)'
    """
    if found is None:
        return f"{what}: too few windows to tell a drift ({windows}, and {LEAST_POINTS} are needed)"
    interval = f"{found.slope * 100:+.1f} % from the first window to the last ({found.low * 100:+.1f} to {found.high * 100:+.1f})"
    return f"{what}: {'it drifts,' if found.certain else 'no drift is certain,'} {interval}"


def _sensor_lines(taken: Sequence[Window], telemetry: Telemetry) -> list[str]:
    first, last = reading_line(taken[0].reading), reading_line(taken[-1].reading)
    lines = [f"after the first window: {first}", f"at the end: {last}"] if first else []
    hottest = [window.reading.hottest_c for window in taken if window.reading.hottest_c is not None]
    if hottest:
        lines.append(f"hottest of all: {max(hottest):g} C")
    held_back = sorted({reason for window in taken for reason in window.reading.held_back_by})
    lines += [f"clocks were held back by: {', '.join(held_back)}"] if held_back else []
    lines += [f"power mode: {telemetry.power_mode}"] if telemetry.power_mode else []
    return lines + [f"not told here: {sentence}" for sentence in telemetry.absent]


def _drift_json(found: Drift | None) -> dict[str, Json] | None:
    return None if found is None else {**vars(found), "certain": found.certain}
