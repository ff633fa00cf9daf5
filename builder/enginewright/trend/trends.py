"""Trends: the series of each metric in each group of points that compare, with their changes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from enginewright.trend.change_points import LEAST_POINTS, change_points
from enginewright.trend.history import Figure, Point, comparable
from enginewright_runtime.canonical import Json
from enginewright_runtime.host import fingerprint_id

FORMAT = 1  # of the JSON; 1: the first
_METRICS = ("latency_p50_ms", "latency_p99_ms", "memory_mib", "size_mib", "accuracy")


@dataclass(frozen=True)
class Change:
    """From `label` on, a metric is `after` where it was `before`: medians of the stretches on both sides."""

    index: int
    label: str
    before: float
    after: float
    p_value: float

    @property
    def share(self) -> float:
        """By what share of it the metric grew."""
        return self.after / self.before - 1 if self.before else math.inf

    def to_json(self) -> dict[str, Json]:
        """The change as a JSON object."""
        return {**vars(self), "share": self.share if math.isfinite(self.share) else None}


@dataclass(frozen=True)
class Series:
    """One metric over the points that have it."""

    metric: str
    labels: tuple[str, ...]
    figures: tuple[Figure, ...]
    changes: tuple[Change, ...]

    def stretches(self) -> list[tuple[int, int, float]]:
        """Between the changes: first index, the index after the last, and the median of the values."""
        bounds = [0, *(change.index for change in self.changes), len(self.figures)]
        return [
            (first, end, statistics.median(figure.value for figure in self.figures[first:end]))
            for first, end in pairwise(bounds)
        ]

    def to_json(self) -> dict[str, Json]:
        """The series as a JSON object."""
        return {
            "metric": self.metric,
            "labels": self.labels,
            "values": [figure.value for figure in self.figures],
            "lows": [figure.low for figure in self.figures],
            "highs": [figure.high for figure in self.figures],
            "changes": [change.to_json() for change in self.changes],
        }


@dataclass(frozen=True)
class Trend:
    """The series of one group: one host, one protocol."""

    host: str
    host_id: str
    series: tuple[Series, ...]
    points: int

    def to_json(self) -> dict[str, Json]:
        """The trend as a JSON object."""
        return {**vars(self), "series": [series.to_json() for series in self.series]}


def trends_of(points: Sequence[Point]) -> tuple[Trend, ...]:
    """A trend for each group of points that compare, in the order in which the groups begin."""
    return tuple(_trend(group) for group in comparable(points))


def trends_json(trends: Sequence[Trend]) -> dict[str, Json]:
    """All trends as one JSON object."""
    return {"format": FORMAT, "trends": [trend.to_json() for trend in trends]}


def trends_text(trends: Sequence[Trend]) -> str:
    """The trends for people: a line for each metric, and one for each of its changes."""
    lines = []
    for trend in trends:
        lines.append(f"{trend.host} (host {trend.host_id[:12]}): {trend.points} measurements")
        for series in trend.series:
            last = series.figures[-1].value
            lines.append(f"  {series.metric:15} {last:.4g} at {series.labels[-1]}; {_changes_words(series)}")
            lines += [
                f"    from {change.label} on: {change.before:.4g} to {change.after:.4g} ({change.share:+.1%})"
                for change in series.changes
            ]
    return "\n".join(lines)


def series_of(metric: str, points: Sequence[Point]) -> Series | None:
    """The series of a metric; None where no point has it."""
    having = [(point.label, point.figures[metric]) for point in points if metric in point.figures]
    if not having:
        return None
    labels, figures = tuple(label for label, _ in having), tuple(figure for _, figure in having)
    found = change_points([_scaled(metric, figure.value) for figure in figures])
    bare = Series(
        metric, labels, figures, tuple(Change(one.index, labels[one.index], 0, 0, one.p_value) for one in found)
    )
    middles = [middle for _, _, middle in bare.stretches()]
    changes = tuple(
        Change(one.index, one.label, middles[number], middles[number + 1], one.p_value)
        for number, one in enumerate(bare.changes)
    )
    return Series(metric, labels, figures, changes)


def _trend(group: Sequence[Point]) -> Trend:
    host = group[0].measurement.host
    series = [found for metric in _METRICS if (found := series_of(metric, group)) is not None]
    return Trend(_host_name(host), fingerprint_id(host), tuple(series), len(group))


def _host_name(host: Mapping[str, Json]) -> str:
    """The processor, and the GPU in its power mode where the engine ran on one."""
    name, gpu = str(host.get("cpu") or "unknown processor"), host.get("gpu")
    if not isinstance(gpu, Mapping):
        return name
    return f"{name}, {' '.join(str(gpu[key]) for key in ('name', 'power_mode') if gpu.get(key))}"


def _scaled(metric: str, value: float) -> float:
    """Latencies are compared by their ratios: a network that is twice as slow is as much louder."""
    return math.log(value) if metric.startswith("latency_") and value > 0 else value


def _changes_words(series: Series) -> str:
    if len(series.figures) < 2 * LEAST_POINTS:
        return f"fewer than {2 * LEAST_POINTS} measurements tell no change"
    count = len(series.changes)
    return "no change" if not count else "1 change" if count == 1 else f"{count} changes"
