"""The report's charts of latency as inline SVG.

Colours are CSS classes, so that light, dark and print are the style sheet's business. Positions along x are percentages and y is in pixels:
a chart is as wide as its place while its text stays readable. Curves stand in a nested picture that stretches.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from enginewright.report.data import Latency
from enginewright.report.latency import PercentileRow, SessionMedians
from enginewright.report.svg import STRETCHED_WIDTH, LogAxis, at, element, figure, path, stretched
from enginewright.units import MINUS, significant

_BINS = 120
_TEXT = 15  # pixels from one line of text to the next
_HISTOGRAM = 116
_TAIL = 132
_SESSIONS = 112


@dataclass(frozen=True)
class LimitLine:
    """A latency budget to draw as a line."""

    name: str
    limit_ms: float


def limits_in_reach(latency: Latency, limits: Iterable[LimitLine]) -> tuple[LimitLine, ...]:
    """The limits within ten times of the samples: one further off would squeeze the samples into a corner of their chart."""
    samples_ns = [*latency.reference_ns, *latency.engine_ns]
    lowest_ms, highest_ms = _drawn_ms(min(samples_ns)), _drawn_ms(max(samples_ns))
    return tuple(line for line in limits if lowest_ms / 10 <= line.limit_ms <= highest_ms * 10)


def distribution_chart(
    latency: Latency,
    percentiles: Sequence[PercentileRow],
    limits: Sequence[LimitLine],
    *,
    reference: str = "reference",
) -> Markup:
    """How the latencies of both engines spread: a histogram, and on the same logarithmic axis the share of calls that were slower.

    Marks stand at the p50 and p99 that the samples can carry, and lines at the limits, which should be `limits_in_reach`.
    `reference` is the word for the engine's other side, which may be missing.
    """
    series = {
        kind: [_drawn_ms(sample) for sample in sorted(samples)]
        for kind, samples in (("reference", latency.reference_ns), ("engine", latency.engine_ns))
        if samples
    }
    samples_ms = tuple(series.values())
    lowest, highest = min(samples[0] for samples in samples_ms), max(samples[-1] for samples in samples_ms)
    ends = [lowest, highest, *(line.limit_ms for line in limits)]
    marks = [row for row in percentiles if row.percent in (50, 99) and not row.missing]
    axis = _axis(min(ends), max(ends), min(samples[len(samples) // 2] for samples in samples_ms))
    labels = _TEXT + 2  # below the caption
    top = labels + _TEXT * (len(limits) + (len(series) if marks else 0)) + 4
    middle = top + _HISTOGRAM
    tail_top = middle + 3 * _TEXT
    bottom = tail_top + _TAIL
    parts = [
        *_vertical_grid(axis, ((top, middle), (tail_top, bottom))),
        _histogram(series, axis, top),
        element("line", x1=0, x2="100%", y1=middle, y2=middle, class_="axis"),
        *_tail_grid(max(len(samples) for samples in samples_ms), tail_top),
        _tail(series, axis, tail_top),
        element("line", x1=0, x2="100%", y1=bottom, y2=bottom, class_="axis"),
        *_tick_labels(axis, middle + _TEXT - 2),
        *_tick_labels(axis, bottom + _TEXT - 2),
        *(part for index, line in enumerate(limits) for part in _limit(line, axis, labels + index * _TEXT, bottom)),
        *_percentile_marks(marks, axis, labels + len(limits) * _TEXT, middle),
        element("text", "share of the calls at each latency", x=0, y=11, class_="caption"),
        element("text", "share of the calls that are slower", x=0, y=tail_top - 5, class_="caption"),
    ]
    sides = f", {reference} and engine" if "reference" in series else ""
    return figure(f"Distribution of latency{sides}", bottom + _TEXT + 4, parts)


def session_chart(sessions: Sequence[SessionMedians]) -> Markup:
    """The median of each session as its distance from the middle one, so that a machine that was not quiet shows."""
    series = {
        "reference": _deviations([session.reference_ns for session in sessions]),
        "engine": _deviations([session.engine_ns for session in sessions]),
    }
    found = [abs(value) for values in series.values() for value in values if value is not None]
    extent = _round_up(max([0.05, *found]))  # at least 5 percent, so that a quiet machine looks quiet
    top, height = 8, _SESSIONS

    def y(deviation: float) -> float:
        return top + height * (0.5 - 0.5 * deviation / extent)

    parts: list[Markup] = []
    for deviation in (extent, 0.0, -extent):
        parts.append(
            element(
                "line", x1=0, x2="100%", y1=y(deviation), y2=y(deviation), class_="axis" if deviation == 0 else "grid"
            )
        )
        parts.append(
            element(
                "text",
                _signed_percent(deviation),
                x=0,
                y=y(deviation) + (-4 if deviation <= 0 else 12),
                class_="caption",
            )
        )
    for shift, (kind, values) in zip((-0.12, 0.12), series.items(), strict=True):
        for index, value in enumerate(values):
            if value is not None:
                x = at(_session_x(index + shift, len(values)))
                parts.append(element("line", x1=x, x2=x, y1=y(0.0), y2=y(value), class_=f"stem {kind}"))
                parts.append(element("circle", cx=x, cy=y(value), r=4 if len(sessions) <= 12 else 3, class_=kind))
    every = max(1, math.ceil(len(sessions) / 12))
    for index in range(0, len(sessions), every):
        x = at(_session_x(index, len(sessions)))
        parts.append(element("text", str(index + 1), x=x, y=top + height + _TEXT, text_anchor="middle", class_="tick"))
    return figure("Median latency of each session against the middle one", top + height + _TEXT + 6, parts)


def _drawn_ms(duration_ns: float) -> float:
    """A duration as a logarithmic axis can take it: what the clock could not tell from nothing counts as a nanosecond."""
    return max(1, duration_ns) / 1e6


def _axis(low: float, high: float, first_mark: float) -> LogAxis:
    """An axis with room at both ends, at the left for the label of the first mark, and never so short that a quiet machine looks wild."""
    span = max(math.log(high / low), math.log(1.6))
    middle = 0.5 * math.log(low * high)
    start, end = middle - 0.55 * span, middle + 0.6 * span
    # Solves (first_mark - start) / (end - start) = 0.2 for the start, where the mark is nearer to it.
    start = min(start, (math.log(first_mark) - 0.2 * end) / 0.8)
    return LogAxis(math.exp(start), math.exp(end))


def _histogram(series: Mapping[str, Sequence[float]], axis: LogAxis, top: float) -> Markup:
    """Both histograms over the same bins and with the same height for the same share."""
    shares = {kind: _bin_shares(samples, axis) for kind, samples in series.items()}
    tallest = max(max(values) for values in shares.values())
    drawn = []
    for kind, values in shares.items():
        steps: list[tuple[float, float]] = [(0.0, _HISTOGRAM)]
        for index, value in enumerate(values):
            y = _HISTOGRAM * (1.0 - value / tallest)
            steps += [(STRETCHED_WIDTH * index / _BINS, y), (STRETCHED_WIDTH * (index + 1) / _BINS, y)]
        drawn.append(path([*_without_flat(steps), (STRETCHED_WIDTH, _HISTOGRAM)], class_=f"area {kind}"))
    return stretched(top, _HISTOGRAM, *drawn)


def _bin_shares(samples: Sequence[float], axis: LogAxis) -> list[float]:
    counts = [0] * _BINS
    for sample in samples:
        counts[min(_BINS - 1, int(axis.share(sample) * _BINS))] += 1
    return [value / len(samples) for value in counts]


def _without_flat(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out the points in the middle of a level stretch."""
    return [
        step
        for index, step in enumerate(steps)
        if not (0 < index < len(steps) - 1 and steps[index - 1][1] == step[1] == steps[index + 1][1])
    ]


def _tail(series: Mapping[str, Sequence[float]], axis: LogAxis, top: float) -> Markup:
    y = _tail_scale(max(len(samples) for samples in series.values()))
    drawn = []
    for kind, samples in series.items():
        total = len(samples)
        points = [(0.0, y(1.0))]
        for index in _spread(total):
            points += [(STRETCHED_WIDTH * axis.share(samples[index]), y((total - index) / total))]
        points.append((points[-1][0], float(_TAIL)))
        drawn.append(path(points, class_=f"line {kind}"))
    return stretched(top, _TAIL, *drawn)


def _tail_scale(total: int) -> Callable[[float], float]:
    """From a share of calls to a height: logarithmic from all of them down to a single one."""
    decades = max(1.0, math.log10(total))
    return lambda share: -_TAIL * math.log10(share) / decades


def _spread(total: int) -> list[int]:
    """Indices into sorted samples, even in the logarithm of how many are beyond: every one of the tail, few of the body."""
    beyond = {round(math.exp(step / 160 * math.log(total))) for step in range(161)}
    return sorted(total - count for count in beyond)


def _tail_grid(total: int, top: float) -> list[Markup]:
    y = _tail_scale(total)
    parts = []
    share = 0.1
    while share * total >= 3:
        at_y = top + y(share)
        parts.append(element("line", x1=0, x2="100%", y1=at_y, y2=at_y, class_="grid"))
        parts.append(element("text", f"1 in {round(1 / share):,}", x=0, y=at_y - 4, class_="caption"))
        share /= 10
    return parts


def _vertical_grid(axis: LogAxis, panels: Iterable[tuple[float, float]]) -> list[Markup]:
    return [
        element("line", x1=at(axis.share(tick)), x2=at(axis.share(tick)), y1=y1, y2=y2, class_="grid")
        for y1, y2 in panels
        for tick in axis.ticks()
    ]


def _tick_labels(axis: LogAxis, y: float) -> list[Markup]:
    """Round numbers under the axis; where there are many, every second one goes away on a narrow screen."""
    ticks = axis.ticks()
    labels = []
    for index, tick in enumerate(ticks):
        share = axis.share(tick)
        last = index == len(ticks) - 1
        anchor = "start" if share < 0.03 else "end" if share > 0.95 else "middle"
        kind = "tick wide" if len(ticks) > 5 and (len(ticks) - 1 - index) % 2 else "tick"
        labels.append(
            element("text", f"{tick:,.10g}{' ms' if last else ''}", x=at(share), y=y, text_anchor=anchor, class_=kind)
        )
    return labels


def _limit(line: LimitLine, axis: LogAxis, top: float, bottom: float) -> list[Markup]:
    share = axis.share(line.limit_ms)
    end = share > 0.5
    label = f"{line.name} budget {significant(line.limit_ms)} ms"
    return [
        element("line", x1=at(share), x2=at(share), y1=top, y2=bottom, class_="limit"),
        element(
            "text",
            label,
            x=at(share),
            dx=-5 if end else 5,
            y=top + 11,
            text_anchor="end" if end else "start",
            class_="limit-label",
        ),
    ]


def _percentile_marks(marks: Sequence[PercentileRow], axis: LogAxis, top: float, bottom: float) -> list[Markup]:
    """A row of labels for each engine: p50 written to the left of its line and p99 to the right, so that they never meet."""
    parts = []
    alone = all(mark.reference_ns is None for mark in marks)
    for row, kind in enumerate(("engine",) if alone else ("reference", "engine")):
        y = top + row * _TEXT
        for mark in marks:
            value_ns = mark.reference_ns if kind == "reference" else mark.engine_ns
            if value_ns is None:
                continue
            x = at(axis.share(_drawn_ms(value_ns)))
            anchor, dx = ("end", -4) if mark.percent == 50 else ("start", 4)
            label = f"{mark.name} {significant(value_ns / 1e6)}"
            parts.append(element("line", x1=x, x2=x, y1=y + 2, y2=bottom, class_=f"mark {kind}"))
            parts.append(element("text", label, x=x, dx=dx, y=y + 12, text_anchor=anchor, class_=f"mark-label {kind}"))
    return parts


def _deviations(medians: Sequence[float | None]) -> list[float | None]:
    """Each median's distance from the middle one, as a share of it."""
    known = [median for median in medians if median is not None]
    middle = statistics.median(known) if known else 0.0
    return [None if median is None else median / middle - 1.0 for median in medians]


def _round_up(extent: float) -> float:
    """The next of 5, 10, 20, 50, 100 ... percent."""
    for power in range(-2, 6):
        for mantissa in (1.0, 2.0, 5.0):
            if mantissa * 10.0**power >= max(extent, 0.05) * 0.9999:
                return mantissa * 10.0**power
    return extent


def _session_x(index: float, sessions: int) -> float:
    """The middle of a session's column, right of the labels of the axis."""
    return 0.1 + 0.9 * (index + 0.5) / sessions


def _signed_percent(share: float) -> str:
    sign = "+" if share > 0 else MINUS if share < 0 else ""
    return f"{sign}{abs(share) * 100:.0f} %"
