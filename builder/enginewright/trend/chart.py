"""A series as inline SVG: a dot for each commit, the level between changes, and a mark at each change."""

from __future__ import annotations

import math
from collections.abc import Callable

from markupsafe import Markup

from enginewright.report.svg import at, element, even_ticks, figure
from enginewright.trend.trends import Change, Series
from enginewright.units import MINUS, significant

_TEXT = 15  # pixels from one line of text to the next
_HEIGHT = 150
_LEFT, _RIGHT = 0.09, 0.98  # where the first and the last point stand; left of them are the labels of the axis
_MOST_LABELS = 5
_LONGEST_LABEL = 10
_LEAST_SPAN = 0.05  # of the middle: what moves less looks as if it moved less


def trend_chart(series: Series, title: str) -> Markup:
    """The chart of one series; `title` names it for those who cannot see it."""
    low, high = _ends(series)
    top = _TEXT * 2 + 4
    bottom = top + _HEIGHT

    def y(value: float) -> float:
        return top + _HEIGHT * (high - value) / (high - low)

    def x(index: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (index + 0.5) / len(series.figures)

    parts: list[Markup] = []
    for tick in even_ticks(low, high, closest=0.2):
        parts.append(element("line", x1=0, x2="100%", y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(element("text", f"{tick:.10g}", x=0, y=y(tick) - 3, class_="caption"))
    parts.append(element("line", x1=0, x2="100%", y1=bottom, y2=bottom, class_="axis"))
    for first, end, middle in series.stretches():
        ends = {"x1": at(x(first - 0.4)), "x2": at(x(end - 0.6))}
        parts.append(element("line", y1=y(middle), y2=y(middle), class_="line engine", **ends))
    for index, point in enumerate(series.figures):
        here = at(x(index))
        if point.low is not None and point.high is not None:
            parts.append(element("line", x1=here, x2=here, y1=y(point.low), y2=y(point.high), class_="stem reference"))
        parts.append(element("circle", cx=here, cy=y(point.value), r=3, class_="engine"))
    for number, change in enumerate(series.changes):
        parts += _mark(change, x(change.index - 0.5), number, top, bottom)
    return figure(title, bottom + _TEXT + 6, [*parts, *_labels(series, x, bottom + _TEXT)])


def _ends(series: Series) -> tuple[float, float]:
    found = [figure.value for figure in series.figures]
    found += [end for figure in series.figures for end in (figure.low, figure.high) if end is not None]
    middle = 0.5 * (min(found) + max(found))
    span = max(max(found) - min(found), _LEAST_SPAN * abs(middle)) or 1.0
    return middle - 0.6 * span, middle + 0.6 * span


def _mark(change: Change, x: float, number: int, top: float, bottom: float) -> list[Markup]:
    """A line between the two commits, and by how much; labels take turns between two rows, so that neighbours do not meet."""
    row = top - _TEXT * (1 + number % 2) + 4
    end = x > 0.6
    return [
        element("line", x1=at(x), x2=at(x), y1=row, y2=bottom, class_="limit"),
        element(
            "text",
            signed_share(change.share),
            x=at(x),
            dx=-5 if end else 5,
            y=row + 8,
            text_anchor="end" if end else "start",
            class_="limit-label",
        ),
    ]


def _labels(series: Series, x: Callable[[float], float], y: float) -> list[Markup]:
    every = math.ceil(len(series.labels) / _MOST_LABELS)
    return [
        element("text", _short(label), x=at(x(index)), y=y, text_anchor="middle", class_="tick")
        for index, label in enumerate(series.labels)
        if index % every == 0
    ]


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def signed_share(share: float) -> str:
    """A change as a share of what was before.

    >>> signed_share(0.0834), signed_share(-0.5), signed_share(math.inf)
    ('+8.3 %', '−50 %', 'changed')
    """
    if not math.isfinite(share):
        return "changed"
    return f"{'+' if share >= 0 else MINUS}{significant(abs(share) * 100, 2)} %"
