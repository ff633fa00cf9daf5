"""What the raw samples of a measurement can carry: percentiles, medians by session, and the protocol in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from enginewright.report.data import Latency
from enginewright.units import counted
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.measurement import Protocol
from enginewright_runtime.stats import percentile, ratios_of_medians

PERCENTS = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class PercentileRow:
    """A percentile of both engines over all sessions; `missing` says why where the samples cannot carry it.

    `reference_ns` is None where the engine was measured alone. `by_session`: the median of the ratios that the sessions
    have, where it takes the place of the pooled samples' ratio.
    """

    percent: float
    reference_ns: float | None = None
    engine_ns: float | None = None
    missing: str = ""
    by_session: float | None = None

    @property
    def name(self) -> str:
        return f"p{self.percent:g}"

    @property
    def ratio(self) -> float | None:
        return self.by_session or _ratio(self.reference_ns, self.engine_ns)


@dataclass(frozen=True)
class SessionMedians:
    """The medians of one session; None where it has too few samples even for that."""

    reference_ns: float | None
    engine_ns: float | None

    @property
    def ratio(self) -> float | None:
        return _ratio(self.reference_ns, self.engine_ns)


def percentile_rows(latency: Latency) -> tuple[PercentileRow, ...]:
    """p50, p90, p99 and p99.9 over the pooled samples of all sessions."""
    reference, engine = latency.reference_ns, latency.engine_ns
    rows = []
    for percent in PERCENTS:
        try:
            before_ns = percentile(reference, percent) if reference else None
            rows.append(PercentileRow(percent, before_ns, percentile(engine, percent)))
        except NotEnoughSamples as error:
            rows.append(PercentileRow(percent, missing=error.message))
    return tuple(rows)


def device_percentile_rows(latency: Latency) -> tuple[PercentileRow, ...]:
    """The same, and the ratio of the medians as the device itself told it."""
    ratios = session_ratios(latency)
    return tuple(
        replace(row, by_session=statistics.median(ratios)) if row.percent == 50 and ratios else row
        for row in percentile_rows(latency)
    )


def session_medians(latency: Latency) -> tuple[SessionMedians, ...]:
    return tuple(
        SessionMedians(_median(session.reference_ns), _median(session.engine_ns)) for session in latency.sessions
    )


def session_ratios(latency: Latency) -> tuple[float, ...]:
    """How many times as fast the engine was in each session, by the medians."""
    return ratios_of_medians(
        (session.reference_ns for session in latency.sessions), (session.engine_ns for session in latency.sessions)
    )


def sessions_disagree(ratios: Sequence[float]) -> bool:
    """Whether they do not agree on which engine is faster."""
    return len(ratios) > 1 and min(ratios) < 1.0 < max(ratios)


def protocol_sentences(latency: Latency, *, reference: str = "the reference") -> tuple[str, ...]:
    """How the figures were taken. They mean nothing without it. `reference` is what the engine was measured beside."""
    protocol, rule = latency.protocol, latency.protocol.warm_up
    moved = f"moved by less than {rule.steady_share * 100:g} %, {counted(rule.steady_times, 'time')} in a row"
    warm_up = f"until the median of {rule.window} inferences {moved}"
    before, after = len(latency.reference_ns), f"{len(latency.engine_ns):,}"
    either = " for either engine" if before else ""
    return (
        f"{_threads(protocol)}, {protocol.caches} caches, {protocol.clock} clock, one inference at a time.",
        f"{counted(protocol.sessions, 'session')}, each with a fresh process{either}, warmed up {warm_up}.",
        _order(protocol, alone=not before),
        f"{before:,} samples of {reference} and {after} of the engine." if before else f"{after} samples.",
    )


def _threads(protocol: Protocol) -> str:
    """One figure where all engines have the same number of threads, else each engine's."""
    if len(set(protocol.threads.values())) == 1:
        return counted(next(iter(protocol.threads.values())), "thread")
    return ", ".join(
        f"{counted(threads, 'thread')} for the {label}" for label, threads in sorted(protocol.threads.items())
    )


def _order(protocol: Protocol, *, alone: bool) -> str:
    timed = f"{counted(protocol.rounds, 'round')} of {counted(protocol.chunk, 'timed inference')}"
    if alone:
        return f"Then {timed}."
    if not protocol.interleaved:
        return f"Then {timed} of one engine after the other."
    dropped = (
        f", {counted(protocol.dropped_per_chunk, 'inference')} after every switch not counted"
        if protocol.dropped_per_chunk
        else ""
    )
    return f"Then {timed} by each in random order{dropped}."


def _ratio(reference_ns: float | None, engine_ns: float | None) -> float | None:
    """How many times faster the engine is; None where a side is missing or was too fast for the clock."""
    return reference_ns / engine_ns if reference_ns and engine_ns else None


def _median(samples: Sequence[int]) -> float | None:
    try:
        return percentile(samples, 50)
    except NotEnoughSamples:
        return None
