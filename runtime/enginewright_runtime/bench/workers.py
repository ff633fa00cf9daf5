"""A worker that has opened a bundle's engine and is warm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from enginewright_runtime.bench.subject import Subject
from enginewright_runtime.warm_up import WarmUpRule
from enginewright_runtime.worker_process import WorkerProcess

WARM_UP = WarmUpRule()


@contextmanager
def warm_worker(measured: Subject, label: str, *, warm_up: WarmUpRule = WARM_UP) -> Iterator[WorkerProcess]:
    """A process that has the engine open and warm; on leaving, it has ended."""
    with WorkerProcess(label) as worker:
        worker.ask("open", **measured.open_request())
        worker.ask("warm_up", **warm_up.to_json())
        yield worker
