"""What other engines that run on the same machine cost: the same engine alone and beside them, chunk by chunk in turn.

The others run back to back, each in a process of its own, while the chunks "beside" are timed, and rest while the
chunks "alone" are: what disturbs the machine for longer than a chunk disturbs both alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.percentiles import percentile_lines, percentiles_ns
from enginewright_runtime.bench.record import BenchRecord
from enginewright_runtime.bench.subject import Subject
from enginewright_runtime.bench.workers import WARM_UP, running, warm_company, warm_worker
from enginewright_runtime.canonical import Json
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.host import conditions
from enginewright_runtime.telemetry import Telemetry
from enginewright_runtime.warm_up import WarmUpRule
from enginewright_runtime.worker_process import WorkerProcess

_ROUNDS, _CHUNK = 40, 5

Samples = dict[str, list[int]]


def bench_beside(
    measured: Subject,
    others: Sequence[Subject],
    *,
    sessions: int,
    rounds: int = _ROUNDS,
    warm_up: WarmUpRule = WARM_UP,
    on_progress: Callable[[int, int], None],
) -> tuple[Answer, bytes]:
    """The answer and the record."""
    generator = random.Random(0)
    telemetry = Telemetry()
    taken: list[Samples] = []
    raw: list[dict[str, Json]] = []
    for done in range(sessions):
        on_progress(done, sessions)
        before = conditions()
        with ExitStack() as stack:
            worker = stack.enter_context(warm_worker(measured, "engine", warm_up=warm_up))
            company = warm_company(others, stack, warm_up=warm_up)
            samples, theirs = _take_rounds(worker, company, rounds, generator)
        taken.append(samples)
        raw.append(
            {
                "samples_ns": samples,
                "others_ns": theirs,
                "conditions_before": before,
                "conditions_after": conditions(),
            }
        )
    on_progress(sessions, sessions)
    record = BenchRecord(
        kind="beside",
        subject=measured.identity(),
        host=fingerprint_for(one.engine.backend for one in (measured, *others)),
        telemetry=telemetry.to_json(),
        settings={"others": [other.identity() for other in others], "rounds": rounds, "chunk": _CHUNK},
        sessions=raw,
    )
    return _answer(measured, others, taken), record.to_bytes()


def ratios(sessions: Sequence[Mapping[str, Sequence[int]]]) -> list[float]:
    """For each session, how many times the median alone the median beside is.

    >>> ratios([{"alone": [10, 10, 12], "beside": [15, 14, 15]}])
    [1.5]
    """
    return [float(np.median(session["beside"]) / np.median(session["alone"])) for session in sessions]


def _take_rounds(
    worker: WorkerProcess, company: Sequence[WorkerProcess], rounds: int, generator: random.Random
) -> tuple[Samples, list[list[int]]]:
    samples: Samples = {"alone": [], "beside": []}
    theirs: list[list[int]] = [[] for _ in company]
    for _ in range(rounds):
        for kind in generator.sample(("alone", "beside"), 2):
            with running(company if kind == "beside" else (), theirs):
                answer = worker.ask("chunk", count=_CHUNK, drop=1)
            samples[kind] += answer.field("samples_ns").integers()
    return samples, theirs


def _answer(measured: Subject, others: Sequence[Subject], taken: Sequence[Samples]) -> Answer:
    pooled = {kind: [sample for session in taken for sample in session[kind]] for kind in ("alone", "beside")}
    found = ratios(taken)
    name = measured.bundle.manifest.name
    company = ", ".join(other.bundle.manifest.name for other in others)
    ends = f" ({min(found):.2f} to {max(found):.2f} over the {len(found)} processes)" if len(found) > 1 else ""
    lines = [
        f"{name} on {measured.entry.fingerprint}, alone and beside {company}: "
        f"{len(pooled['alone'])} inferences of each in {len(taken)} fresh processes",
        "alone:",
        *percentile_lines(pooled["alone"]),
        f"beside {company}, running back to back:",
        *percentile_lines(pooled["beside"]),
        f"the median is {np.median(found):.2f} times as long beside them{ends}",
    ]
    json: dict[str, Json] = {
        **measured.identity(),
        "others": [other.identity() for other in others],
        "sessions": len(taken),
        "alone_ns": percentiles_ns(pooled["alone"]),
        "beside_ns": percentiles_ns(pooled["beside"]),
        "ratios": found,
        "host": fingerprint_for(one.engine.backend for one in (measured, *others)),
    }
    return Answer(ExitCode.OK, json, lines)
