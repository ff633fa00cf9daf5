"""Measuring engines side by side: fresh processes, interleaved chunks, raw samples kept.

A session has one process an engine. Each is warmed up until it is seen to be warm. Then, round by round and in random
order, every process times one short chunk, so that what disturbs the machine for longer than a chunk disturbs all
engines alike (duet benchmarking, arXiv 2001.05811; randomized interleaving, Abedi and Brecht 2017).
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from enginewright_runtime.backends import Array
from enginewright_runtime.caches import Caches, bytes_to_evict
from enginewright_runtime.canonical import Json, sha256_file
from enginewright_runtime.chunk_conditions import ConditionsProbe, Reading, columns
from enginewright_runtime.gpu import fingerprint_for, watched_gpu
from enginewright_runtime.host import conditions
from enginewright_runtime.measurement import MeasuredEngine, Measurement, Protocol, SessionRecord
from enginewright_runtime.npz import write_npz
from enginewright_runtime.warm_up import WarmUp, WarmUpRule
from enginewright_runtime.worker_process import WorkerProcess

__all__ = ["EngineToMeasure", "Measurement", "Measuring", "WarmUpRule", "measure"]

# After a switch, an inference finds the other engine's data in the caches: that is what evicted ones are to be.
DROPPED_PER_CHUNK: Mapping[Caches, int] = {"warm": 1, "evicted": 0}
_DEFAULT_WARM_UP = WarmUpRule()

# By label: the samples of all rounds, the CPU time of each round's chunk, and the conditions after it.
_Taken: TypeAlias = "tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[Reading]]]"


@dataclass(frozen=True)
class EngineToMeasure:
    """An engine's file, and how to open it. `inputs` are its own, where it does not take those of the measurement."""

    path: Path
    backend: str
    settings: Mapping[str, Json]
    inputs: Mapping[str, Array] | None = None


def measure(
    engines: Mapping[str, EngineToMeasure],
    inputs: Mapping[str, Array],
    *,
    sessions: int = 5,
    rounds: int = 40,
    chunk: int = 5,
    seed: int = 0,
    warm_up: WarmUpRule = _DEFAULT_WARM_UP,
    caches: Caches = "warm",
    on_progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Take `sessions` sessions of `rounds` rounds of `chunk` samples of each engine, all on the same inputs.

    `engines` is by label. `seed` decides the order within the rounds. `caches`: how each inference is to find them,
    see enginewright_runtime.caches. `on_progress` is called with the number of
    sessions done and `sessions`. Raises MeasurementError where a process dies, stops answering or answers nonsense,
    with what it wrote to its standard error. Whatever happens, all processes have ended on return.
    """
    if sessions < 1:
        raise ValueError("a measurement has one session at the least")
    gpu = watched_gpu(engine.backend for engine in engines.values())
    probe = ConditionsProbe(gpu=gpu) if gpu else None
    with Measuring(
        engines, inputs, rounds=rounds, chunk=chunk, seed=seed, warm_up=warm_up, caches=caches, probe=probe
    ) as measuring:
        for done in range(sessions):
            if on_progress:
                on_progress(done, sessions)
            measuring.take_session()
        if on_progress:
            on_progress(sessions, sessions)
        return measuring.measurement()


class Measuring:
    """A measurement that is being taken, session by session, for as long as its user wants more samples.

    The engines' files are known by their digests from the start: one that changes between sessions is refused.
    `probe` reads the machine's conditions after each chunk, beside those that are read before and after a session.
    With `same_cores`, all processes of a session are bound to the same cores, as many as the engine with the most
    threads has, and the next session's to the next ones: what else runs on a core disturbs all engines alike, where
    processes that the system places anew may sit beside a busy neighbour for a whole session, and one engine alone.
    """

    def __init__(
        self,
        engines: Mapping[str, EngineToMeasure],
        inputs: Mapping[str, Array],
        *,
        rounds: int,
        chunk: int,
        seed: int,
        warm_up: WarmUpRule = _DEFAULT_WARM_UP,
        caches: Caches = "warm",
        probe: ConditionsProbe | None = None,
        same_cores: bool = False,
    ) -> None:
        if not engines or min(rounds, chunk) < 1:
            raise ValueError("a session has one engine, one round and one sample a chunk at the least")
        self._engines = dict(engines)
        self._identities = {label: _identity(engine) for label, engine in engines.items()}
        self._inputs = {label: engine.inputs or inputs for label, engine in engines.items()}
        self._probe = probe
        self._same_cores = same_cores
        self._rounds, self._chunk, self._seed, self._warm_up = rounds, chunk, seed, warm_up
        self._caches: Caches = caches
        self._evicted_bytes = bytes_to_evict() if caches == "evicted" else 0
        self._generator = random.Random(seed)
        self._sessions: list[SessionRecord] = []
        self._folder = ExitStack()

    def __enter__(self) -> Measuring:
        folder = self._folder.enter_context(tempfile.TemporaryDirectory(prefix="enginewright-"))
        self._inputs_paths = {label: Path(folder) / f"{index}.npz" for index, label in enumerate(self._inputs)}
        for label, path in self._inputs_paths.items():
            path.write_bytes(write_npz(self._inputs[label]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._folder.close()

    def take_session(self) -> SessionRecord:
        """Take one more session, in processes that start and end with it."""
        with ExitStack() as stack:
            workers = {label: stack.enter_context(WorkerProcess(label)) for label in self._engines}
            if self._same_cores:
                self._bind(workers)
            for label, engine in self._engines.items():
                workers[label].ask("open", **self._open_request(label, engine))
            warm_ups = {label: self._warm(worker) for label, worker in self._shuffled(workers)}
            before = conditions()
            samples, cpu, readings = self._take_rounds(workers)
            after = conditions()
            reports = {label: worker.ask("report") for label, worker in workers.items()}
        record = SessionRecord(
            samples_ns={label: tuple(taken) for label, taken in samples.items()},
            cpu_ns={label: tuple(taken) for label, taken in cpu.items()},
            warm_up=warm_ups,
            peak_rss_bytes={label: told.field("peak_rss_bytes").integer() for label, told in reports.items()},
            gpu_bytes={label: told.field("gpu_bytes").integer() for label, told in reports.items()},
            conditions_before=before,
            conditions_after=after,
            chunk_conditions={label: columns(taken) for label, taken in readings.items() if taken},
        )
        self._sessions.append(record)
        return record

    def measurement(self) -> Measurement:
        """All sessions so far."""
        return Measurement(
            host=fingerprint_for(engine.backend for engine in self._engines.values()),
            protocol=Protocol(
                threads={label: _threads(engine) for label, engine in self._engines.items()},
                interleaved=len(self._engines) > 1,
                sessions=len(self._sessions),
                rounds=self._rounds,
                chunk=self._chunk,
                dropped_per_chunk=DROPPED_PER_CHUNK[self._caches],
                seed=self._seed,
                warm_up=self._warm_up,
                caches=self._caches,
                evicted_bytes=self._evicted_bytes,
            ),
            engines=self._identities,
            sessions=tuple(self._sessions),
        )

    def _open_request(self, label: str, engine: EngineToMeasure) -> dict[str, Json]:
        return {
            "engine": str(engine.path),
            "sha256": self._identities[label].sha256,
            "backend": engine.backend,
            "settings": engine.settings,
            "inputs": str(self._inputs_paths[label]),
            "evicted_bytes": self._evicted_bytes,
        }

    def _bind(self, workers: Mapping[str, WorkerProcess]) -> None:
        """Before they open their engines, whose threads then inherit it. Only Linux knows how."""
        if sys.platform != "linux":
            return
        cores = sorted(os.sched_getaffinity(0))
        wanted = max(_threads(engine) for engine in self._engines.values())
        first = len(self._sessions) * wanted
        chosen = {cores[(first + index) % len(cores)] for index in range(min(wanted, len(cores)))}
        for worker in workers.values():
            with suppress(ProcessLookupError):  # one that has died says why when it is asked
                os.sched_setaffinity(worker.pid, chosen)

    def _warm(self, worker: WorkerProcess) -> WarmUp:
        return WarmUp.from_json(worker.ask("warm_up", **self._warm_up.to_json()))

    def _take_rounds(self, workers: Mapping[str, WorkerProcess]) -> _Taken:
        drop = DROPPED_PER_CHUNK[self._caches]
        samples: dict[str, list[int]] = {label: [] for label in workers}
        cpu: dict[str, list[int]] = {label: [] for label in workers}
        readings: dict[str, list[Reading]] = {label: [] for label in workers}
        if self._probe:
            self._probe.begin()
        for _ in range(self._rounds):
            for label, worker in self._shuffled(workers):
                answer = worker.ask("chunk", count=self._chunk, drop=drop)
                taken = answer.field("samples_ns").integers()
                if len(taken) != self._chunk:
                    raise answer.field("samples_ns").refuse(f"must have {self._chunk} samples")
                samples[label] += taken
                cpu[label].append(answer.field("cpu_ns").integer())
                if self._probe:
                    readings[label].append(self._probe.read(worker.pid))
        return samples, cpu, readings

    def _shuffled(self, workers: Mapping[str, WorkerProcess]) -> list[tuple[str, WorkerProcess]]:
        return self._generator.sample(list(workers.items()), len(workers))


def _identity(engine: EngineToMeasure) -> MeasuredEngine:
    return MeasuredEngine(
        sha256=sha256_file(engine.path),
        size_bytes=engine.path.stat().st_size,
        backend=engine.backend,
        settings=engine.settings,
    )


def _threads(engine: EngineToMeasure) -> int:
    """Every backend calls it `threads`, and takes one where it is not set."""
    threads = engine.settings.get("threads", 1)
    return threads if isinstance(threads, int) else 1
