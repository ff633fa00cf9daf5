"""The process that opens one engine and times it: ``python -m enginewright_runtime.worker``.

It reads one JSON object a line from standard input and answers each with one line on standard output. Nothing else
can reach that channel: before any engine's library is loaded, file descriptor 1 is pointed at standard error. It ends
when its standard input does, so it does not outlive its parent.

========  ================================================================  ==================
do        with                                                              answer
========  ================================================================  ==================
open      engine, inputs (paths), sha256, backend, settings, evicted_bytes  size_bytes
warm_up   what WarmUpRule has                                               what WarmUp has
chunk     count, drop (untimed ones at the start)                           samples_ns, cpu_ns
arrivals  period_ns, frames                                                 what Arrivals has
window    duration_ns                                                       samples_ns, count
load      (runs inferences beside, until rest)
rest                                                                        samples_ns
report                                                                      peak_rss_bytes, gpu_bytes
rehearse  bundle (path), sha256                                             outputs
========  ================================================================  ==================

Where `evicted_bytes` is not 0, so many are written before each inference of a chunk. The warm-up goes without that: it
is there for what happens once in a process, and every figure of the engine is of a process that is past it.

Where a request fails for a reason that has a name, the answer has `error` and `hint` instead.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from pathlib import Path

import numpy as np

from enginewright_runtime.backends import Array, OpenEngine, backend
from enginewright_runtime.bench.tasks import Tasks
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.caches import Evictor
from enginewright_runtime.canonical import Json, canonical_bytes, sha256_hex, strict_json
from enginewright_runtime.errors import BundleError, EnginewrightError, MeasurementError
from enginewright_runtime.golden import read_golden
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.npz import read_npz
from enginewright_runtime.session import open_bundle
from enginewright_runtime.warm_up import WarmUpRule, warm_up


class Worker:
    """One engine, its inputs, and the requests that time it. `requests` is the descriptor that they come from."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._engine: OpenEngine | None = None
        self._inputs: dict[str, Array] = {}
        self._evictor = Evictor(0)
        self._peak_before_evicting = 0
        self._gpu_bytes = 0
        self._tasks = Tasks(self._time_once)

    def answer(self, request: JsonField) -> dict[str, Json]:
        """Do what one request asks."""
        actions = {
            "open": self._open,
            "warm_up": self._warm_up,
            "chunk": self._chunk,
            "arrivals": self._tasks.arrivals,
            "window": self._tasks.window,
            "load": self._tasks.load,
            "rest": self._tasks.rest,
            "report": self._report,
            "rehearse": _rehearse,
        }
        name = request.field("do").text()
        if name not in actions:
            raise request.field("do").refuse(f"must be one of {', '.join(actions)}")
        return actions[name](request)

    def _open(self, request: JsonField) -> dict[str, Json]:
        path = request.field("engine").text(longest=4096)
        engine = Path(path).read_bytes()
        if sha256_hex(engine) != request.field("sha256").text():
            raise MeasurementError(f"{path}: the engine was altered after it was chosen for measuring")
        arrays = read_npz(Path(request.field("inputs").text(longest=4096)).read_bytes())
        self._inputs = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._engine = backend(request.field("backend").text()).open(engine, request.field("settings").mapping())
        # The driver counts what all processes take, and the session's other engines are opened after this answer.
        self._gpu_bytes = self._engine.gpu_bytes()
        if self._gpu_bytes:
            self._engine.run(self._inputs)  # the first inference takes what a graph needs
            self._gpu_bytes = self._engine.gpu_bytes()
        self._peak_before_evicting = peak_rss_bytes()
        self._evictor = Evictor(request.field("evicted_bytes").integer())
        return {"size_bytes": len(engine)}

    def _warm_up(self, request: JsonField) -> dict[str, Json]:
        rule = WarmUpRule.from_json(request)
        return warm_up(self._time_once_watching, rule, time.perf_counter_ns).to_json()

    def _chunk(self, request: JsonField) -> dict[str, Json]:
        count, drop = request.field("count").integer(least=1), request.field("drop").integer()
        for _ in range(drop):
            self._time_once()
        if self._evictor.size_bytes:
            return self._evicted_chunk(count)
        cpu_before = time.process_time_ns()
        samples = [self._time_once() for _ in range(count)]
        return {"samples_ns": samples, "cpu_ns": time.process_time_ns() - cpu_before}

    def _evicted_chunk(self, count: int) -> dict[str, Json]:
        samples, cpu_ns = [], 0
        for _ in range(count):
            self._evictor.evict()
            cpu_before = time.process_time_ns()
            samples.append(self._time_once())
            cpu_ns += time.process_time_ns() - cpu_before
        return {"samples_ns": samples, "cpu_ns": cpu_ns}

    def _report(self, request: JsonField) -> dict[str, Json]:
        """The buffer that evicts is no part of what running the engine takes."""
        return {
            "peak_rss_bytes": max(self._peak_before_evicting, peak_rss_bytes() - self._evictor.size_bytes),
            "gpu_bytes": self._gpu_bytes,
        }

    def _time_once(self) -> int:
        if self._engine is None:
            raise MeasurementError("no engine is open")
        begin = time.perf_counter_ns()
        self._engine.run(self._inputs)
        return time.perf_counter_ns() - begin

    def _time_once_watching(self) -> int:
        """A warm-up may take half a minute, so it looks between inferences whether the parent is still there.

        The parent waits for the answer and sends nothing meanwhile: what can be read is the end of the stream.
        """
        if select.select([self._requests], [], [], 0)[0]:
            raise SystemExit(0)
        return self._time_once()


def _rehearse(request: JsonField) -> dict[str, Json]:
    """Open a bundle as an application does, run its golden inputs, and say whether each output is the golden one."""
    bundle = read_bundle(Path(request.field("bundle").text(longest=4096)))
    if bundle.sha256 != request.field("sha256").text():
        raise BundleError(f"{bundle.path}: another bundle stands in its place")
    golden = read_golden(bundle)
    with open_bundle(bundle) as session:
        compared = golden.compare(session.run(golden.inputs))
    return {"outputs": [{"name": output.name, "agrees": output.agrees} for output in compared]}


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident.

    From VmHWM where there is /proc: getrusage's figure survives exec, so that a child would report its parent's peak.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    except FileNotFoundError:
        pass
    import resource  # not on every system, and not needed on Linux

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Answer requests until they end."""
    answers = os.dup(1)
    os.dup2(2, 1)
    requests = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    worker = Worker(requests)
    with os.fdopen(requests, "rb") as lines, os.fdopen(answers, "wb") as channel:
        for line in lines:
            request = JsonField(strict_json(line), "request", MeasurementError)
            try:
                answer = worker.answer(request)
            except EnginewrightError as error:
                answer = {"error": error.message, "hint": error.hint}
            channel.write(canonical_bytes(answer) + b"\n")
            channel.flush()


if __name__ == "__main__":
    main()
