"""What a worker does besides chunks: answer frames that arrive, run through a window of time, and load the machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from enginewright_runtime.bench.arrivals import take_arrivals
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.json_field import JsonField

MOST_SAMPLES = 20_000  # that one answer holds
_START_LIMIT_S = 60.0


class Tasks:
    """The tasks of one worker. `time_once` runs one inference and returns its nanoseconds."""

    def __init__(self, time_once: Callable[[], int]) -> None:
        self._time_once = time_once
        self._load: _Load | None = None

    def arrivals(self, request: JsonField) -> dict[str, Json]:
        """Answer `frames` frames, one every `period_ns`."""
        return take_arrivals(
            self._time_once,
            period_ns=request.field("period_ns").integer(least=1),
            frames=request.field("frames").integer(least=1),
            clock_ns=time.perf_counter_ns,
            sleep_until=sleep_until,
        ).to_json()

    def window(self, request: JsonField) -> dict[str, Json]:
        """Run inferences back to back for `duration_ns`; of those beyond MOST_SAMPLES only the number is kept."""
        end = time.perf_counter_ns() + request.field("duration_ns").integer(least=1)
        samples: list[int] = []
        count = 0
        while time.perf_counter_ns() < end:
            sample = self._time_once()
            count += 1
            if count <= MOST_SAMPLES:
                samples.append(sample)
        return {"samples_ns": samples, "count": count}

    def load(self, request: JsonField) -> dict[str, Json]:
        """Begin to run inferences back to back, beside whatever else is asked for, until `rest`."""
        if self._load is not None:
            raise MeasurementError("the load is on already")
        self._load = _Load(self._time_once)
        return {}

    def rest(self, request: JsonField) -> dict[str, Json]:
        """End the load, and tell its samples, MOST_SAMPLES at most."""
        if self._load is None:
            raise MeasurementError("there is no load to end")
        load, self._load = self._load, None
        return {"samples_ns": load.end()}


class _Load:
    """A thread that runs inferences until it is told to end. It has run the first one when this returns."""

    def __init__(self, time_once: Callable[[], int]) -> None:
        self._time_once = time_once
        self._samples: list[int] = []
        self._error: Exception | None = None
        self._began, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._began.wait(_START_LIMIT_S):
            raise MeasurementError(f"no inference ended within {_START_LIMIT_S:g} s")

    def end(self) -> list[int]:
        self._ended.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._samples

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                sample = self._time_once()
                if len(self._samples) < MOST_SAMPLES:
                    self._samples.append(sample)
                self._began.set()
        except Exception as error:  # told where the thread is waited for
            self._error = error
            self._began.set()


def sleep_until(due_ns: int) -> None:
    """Sleep until the clock of time.perf_counter_ns has reached `due_ns`."""
    while (left_ns := due_ns - time.perf_counter_ns()) > 0:
        time.sleep(left_ns / 1e9)
