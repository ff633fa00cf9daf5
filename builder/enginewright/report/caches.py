"""The medians with warm and with evicted caches, side by side: two measurements, of which no figure mixes both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginewright.report.comparison import Figure
from enginewright.report.data import Latency, ReportData
from enginewright.report.latency import percentile_rows, session_ratios
from enginewright.units import NONE, counted, file_size, milliseconds, significant, times
from enginewright_runtime.budget import percentile_interval_ns
from enginewright_runtime.errors import NotEnoughSamples

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class CachesRow:
    """The medians of both engines with one kind of caches, and how many times faster the engine is."""

    caches: str
    reference: Figure
    engine: Figure
    ratio: Figure


def caches_rows(data: ReportData) -> tuple[CachesRow, ...]:
    """One row for warm and one for evicted caches; none where only one of them was measured."""
    if data.latency is None or data.latency_evicted is None:
        return ()
    return tuple(_row(latency) for latency in (data.latency, data.latency_evicted))


def caches_sentences(data: ReportData) -> tuple[str, ...]:
    """What either kind means; nothing where `caches_rows` has nothing."""
    if data.latency is None or data.latency_evicted is None:
        return ()
    protocol = data.latency_evicted.protocol
    taken = f"{counted(protocol.sessions, 'session')} of {counted(protocol.rounds * protocol.chunk, 'sample')}"
    return (
        "Warm: one inference follows another and finds in the caches what that left. Budgets are judged on these "
        "samples, and the percentiles are theirs.",
        f"Evicted: before each inference its process writes {file_size(protocol.evicted_bytes)}, which drives data and "
        "code out of the caches, as other processes do between two frames of a camera; "
        f"{taken} of each engine, taken apart from the warm ones.",
        f"Beside a median stands its {_CONFIDENCE * 100:g} % interval, beside a ratio its range over the sessions.",
    )


def _row(latency: Latency) -> CachesRow:
    median = next(row for row in percentile_rows(latency) if row.percent == 50)
    ratios = session_ratios(latency)
    spread = f"{times(min(ratios))} to {times(max(ratios))}" if len(ratios) > 1 else ""
    return CachesRow(
        latency.protocol.caches,
        _median(median.reference_ns, [session.reference_ns for session in latency.sessions]),
        _median(median.engine_ns, [session.engine_ns for session in latency.sessions]),
        Figure(NONE if median.ratio is None else times(median.ratio), spread),
    )


def _median(median_ns: float | None, sessions_ns: Sequence[Sequence[int]]) -> Figure:
    return Figure() if median_ns is None else Figure(milliseconds(median_ns), _interval(sessions_ns))


def _interval(sessions_ns: Sequence[Sequence[int]]) -> str:
    try:
        low_ns, high_ns = percentile_interval_ns(sessions_ns, 50, alpha=(1 - _CONFIDENCE) / 2)
    except NotEnoughSamples:
        return ""
    return "" if high_ns is None else f"{significant(low_ns / 1e6)} to {significant(high_ns / 1e6)}"
