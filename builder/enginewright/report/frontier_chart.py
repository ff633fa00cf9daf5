"""Accuracy against latency of the ways to compress a network, as inline SVG."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from markupsafe import Markup

from enginewright.report.compression_data import Frontier, FrontierPoint
from enginewright.report.svg import STRETCHED_WIDTH, LogAxis, at, element, even_ticks, figure, path, stretched
from enginewright.units import MINUS

_TEXT = 15  # pixels from one line of text to the next
_HEIGHT = 240
_TOP = 2 * _TEXT
_LEFT, _RIGHT = 0.08, 0.97  # where the axis of latencies begins and ends; left of it are the labels of the other
_LEAST_SPAN = 0.01  # of accuracy: what differs less than a point looks as if it did


def frontier_chart(frontier: Frontier) -> Markup:
    """Each point with its number in the table beside it, the bars of its uncertainty, and a line through those that no
    other beats in both; a diamond is the float network.
    """
    latencies = [end for point in frontier.points for end in point.latency_range_ms] + [frontier.reference_ms]
    axis = LogAxis(min(latencies) / 1.1, max(latencies) * 1.1)
    changes = [end for point in frontier.points for end in point.change_interval or (point.change,)] + [0.0]
    middle, span = 0.5 * (min(changes) + max(changes)), 1.16 * max(max(changes) - min(changes), _LEAST_SPAN)
    low, high = middle - span / 2, middle + span / 2

    def x(latency_ms: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * axis.share(latency_ms)

    def y(change: float) -> float:
        return _TOP + _HEIGHT * (high - change) / (high - low)

    bottom = _TOP + _HEIGHT
    parts = [element("text", "change of accuracy in points, against p50 latency in ms", x=0, y=11, class_="caption")]
    for tick in even_ticks(100 * low, 100 * high):
        height = y(tick / 100)
        parts.append(element("line", x1=0, x2="100%", y1=height, y2=height, class_="grid"))
        parts.append(element("text", _points(tick), x=0, y=height - 3, class_="caption"))
    for tick in axis.ticks():
        parts.append(element("line", x1=at(x(tick)), x2=at(x(tick)), y1=_TOP, y2=bottom, class_="grid"))
        parts.append(
            element("text", f"{tick:.10g}", x=at(x(tick)), y=bottom + _TEXT, text_anchor="middle", class_="tick")
        )
    parts.append(element("line", x1=0, x2="100%", y1=bottom, y2=bottom, class_="axis"))
    ends = [(STRETCHED_WIDTH * x(point.latency_ms), y(point.change) - _TOP) for point in frontier.not_beaten]
    steps = [ends[0]] + [corner for (_, up), (on, down) in pairwise(ends) for corner in ((on, up), (on, down))]
    parts.append(stretched(_TOP, _HEIGHT, path(steps, class_="line engine frontier")))
    # An svg with overflow is the only way to a shape in pixels at a place in percent.
    parts.append(
        element(
            "svg",
            element("path", d="M0 -6L6 0L0 6L-6 0Z", class_="reference"),
            x=at(x(frontier.reference_ms)),
            y=y(0.0),
            style="overflow: visible",
        )
    )
    for number, point in enumerate(frontier.points, 1):
        parts += _point(number, point, x=x, y=y)
    return figure("Accuracy against latency", bottom + _TEXT + 6, parts)


def _point(
    number: int, point: FrontierPoint, *, x: Callable[[float], float], y: Callable[[float], float]
) -> list[Markup]:
    across, up = at(x(point.latency_ms)), y(point.change)
    low, high = point.latency_range_ms
    kind = "engine" if point.int8 else "reference"
    bars = [element("line", x1=at(x(low)), x2=at(x(high)), y1=up, y2=up, class_=f"spread {kind}")]
    if point.change_interval is not None:
        least, most = (y(end) for end in point.change_interval)
        bars.append(element("line", x1=across, x2=across, y1=least, y2=most, class_=f"spread {kind}"))
    return [
        *bars,
        element("circle", element("title", point.name), cx=across, cy=up, r=4.5, class_=kind),
        element("text", str(number), x=across, dx=7, y=up - 6, class_=f"mark-label {kind}"),
    ]


def _points(tick: float) -> str:
    return "0" if tick == 0 else f"{'+' if tick > 0 else MINUS}{abs(tick):.10g}"
