"""Workers that have opened a bundle's engine and are warm: the one that is measured, and its company."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

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


def warm_company(others: Sequence[Subject], stack: ExitStack, *, warm_up: WarmUpRule = WARM_UP) -> list[WorkerProcess]:
    """A warm worker for each of the engines that run beside; they end with `stack`."""
    return [
        stack.enter_context(warm_worker(other, f"other {number}", warm_up=warm_up))
        for number, other in enumerate(others, start=1)
    ]


@contextmanager
def running(company: Sequence[WorkerProcess], theirs_ns: list[list[int]]) -> Iterator[None]:
    """Meanwhile each of the company runs back to back; its latencies are added to its list in `theirs_ns`."""
    for other in company:
        other.ask("load")
    yield
    for other, kept in zip(company, theirs_ns, strict=False):
        kept += other.ask("rest").field("samples_ns").integers()
