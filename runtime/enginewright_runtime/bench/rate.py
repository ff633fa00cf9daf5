"""A bench at a camera's rate: sessions of frames that arrive, each in a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.arrivals import Arrivals
from enginewright_runtime.bench.percentiles import percentile_lines, percentiles_ns
from enginewright_runtime.bench.record import BenchRecord
from enginewright_runtime.bench.subject import Subject
from enginewright_runtime.bench.workers import WARM_UP, running, warm_company, warm_worker
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.host import conditions
from enginewright_runtime.stats import korn_graubard, percentile
from enginewright_runtime.telemetry import Telemetry
from enginewright_runtime.telemetry.telemetry import reading_line
from enginewright_runtime.warm_up import WarmUpRule

FRAMES = 300  # a session: 10 seconds of a camera at 30 Hz, and two sessions carry a p99
_ALPHA = 0.025  # of each end of the interval


@dataclass(frozen=True)
class Deadlines:
    """How many frames of all missed their deadline, and the share that this says, with its 95 % interval if it has one."""

    missed: int
    dropped: int
    frames: int
    interval: tuple[float, float] | None


def deadlines(sessions: Sequence[Arrivals], deadline_ns: int) -> Deadlines:
    """Count the missed deadlines; the sessions decide what their frames are worth (Korn and Graubard 1998).

    >>> deadlines([Arrivals(100, 2, (0, 1), (0, 100), (30, 190))], 80)
    Deadlines(missed=1, dropped=0, frames=2, interval=None)
    """
    missed = [session.missed(deadline_ns) for session in sessions]
    try:
        interval = korn_graubard(missed, sessions[0].frames, _ALPHA)
    except NotEnoughSamples:
        interval = None
    return Deadlines(
        sum(missed), sum(session.dropped for session in sessions), sum(session.frames for session in sessions), interval
    )


def bench_rate(
    measured: Subject,
    *,
    rate_hz: float,
    deadline_ms: float | None,
    others: Sequence[Subject] = (),
    sessions: int,
    frames: int = FRAMES,
    warm_up: WarmUpRule = WARM_UP,
    on_progress: Callable[[int, int], None],
) -> tuple[Answer, bytes]:
    """The answer and the record. Without a deadline it is the period: the answer is there before the next frame.

    `others` run back to back beside it, each in a process of its own.
    """
    period_ns = round(1e9 / rate_hz)
    deadline_ns = period_ns if deadline_ms is None else round(deadline_ms * 1e6)
    telemetry = Telemetry()
    taken: list[Arrivals] = []
    raw: list[dict[str, Json]] = []
    for done in range(sessions):
        on_progress(done, sessions)
        with ExitStack() as stack:
            worker = stack.enter_context(warm_worker(measured, "engine", warm_up=warm_up))
            company = warm_company(others, stack, warm_up=warm_up)
            theirs: list[list[int]] = [[] for _ in company]
            before = conditions()
            with running(company, theirs):
                taken.append(Arrivals.from_json(worker.ask("arrivals", period_ns=period_ns, frames=frames)))
        raw.append(
            {
                **taken[-1].to_json(),
                "others_ns": theirs,
                "conditions_before": before,
                "conditions_after": conditions(),
                "reading_after": telemetry.read().to_json(),
            }
        )
    on_progress(sessions, sessions)
    settings: dict[str, Json] = {
        "rate_hz": rate_hz,
        "deadline_ns": deadline_ns,
        "frames": frames,
        "others": [other.identity() for other in others],
    }
    record = BenchRecord(
        kind="rate",
        subject=measured.identity(),
        host=fingerprint_for([measured.engine.backend]),
        telemetry=telemetry.to_json(),
        settings=settings,
        sessions=raw,
    )
    found = deadlines(taken, deadline_ns)
    lines = _lines(measured, settings, taken, found, telemetry)
    if others:
        lines.insert(1, f"beside {', '.join(other.bundle.manifest.name for other in others)}, running back to back")
    answer = Answer(ExitCode.OK, _json(measured, settings, taken, found), lines)
    return answer, record.to_bytes()


def _json(measured: Subject, settings: dict[str, Json], taken: Sequence[Arrivals], found: Deadlines) -> dict[str, Json]:
    return {
        **measured.identity(),
        **settings,
        "sessions": len(taken),
        "response_ns": percentiles_ns(_pooled(taken, Arrivals.responses_ns)),
        "inference_ns": percentiles_ns(_pooled(taken, Arrivals.services_ns)),
        "wait_ns": percentiles_ns(_pooled(taken, Arrivals.waits_ns)),
        "arrived": found.frames,
        "missed": found.missed,
        "dropped": found.dropped,
        "missed_share_interval": found.interval,
        "host": fingerprint_for([measured.engine.backend]),
    }


def _lines(
    measured: Subject, settings: dict[str, Json], taken: Sequence[Arrivals], found: Deadlines, telemetry: Telemetry
) -> list[str]:
    name = measured.bundle.manifest.name
    lines = [
        f"{name} on {measured.entry.fingerprint}: {found.frames} frames at {settings['rate_hz']:g} Hz "
        f"in {len(taken)} fresh processes",
        "from a frame's arrival to its answer:",
        *percentile_lines(_pooled(taken, Arrivals.responses_ns)),
        "the inference alone:",
        *percentile_lines(_pooled(taken, Arrivals.services_ns)),
        f"waiting and waking up: {_middle(_pooled(taken, Arrivals.waits_ns))}",
        deadline_line(found, taken[0].period_ns, settings["deadline_ns"]),
    ]
    if seen := reading_line(telemetry.read()):
        lines.append(f"at the end: {seen}")
    return lines


def deadline_line(found: Deadlines, period_ns: int, deadline_ns: Json) -> str:
    """The missed deadlines in words."""
    assert isinstance(deadline_ns, int)
    when = " (when the next frame is due)" if deadline_ns == period_ns else ""
    share = (
        f", between {found.interval[0]:.2%} and {found.interval[1]:.2%} of them"
        if found.interval
        else "; an interval needs two processes or more"
    )
    return (
        f"deadline {deadline_ns / 1e6:.4g} ms{when}: {found.missed} of {found.frames} frames missed, "
        f"{found.dropped} of these dropped for a newer one{share}"
    )


def _pooled(taken: Sequence[Arrivals], figures: Callable[[Arrivals], list[int]]) -> list[int]:
    return [figure for session in taken for figure in figures(session)]


def _middle(samples_ns: Sequence[int]) -> str:
    try:
        return f"p50 {percentile(samples_ns, 50) / 1e6:.4g} ms"
    except NotEnoughSamples as error:
        return error.message
