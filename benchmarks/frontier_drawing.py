"""Draws points of latency and accuracy with error bars, and names each where its name covers nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from side_by_side import Spread

__all__ = ["Box", "Dot", "draw", "not_beaten", "place_labels"]

_INT8, _FLOAT, _QUIET = "#1f5fa8", "#b3541e", "#8a8a8a"
_GAP = 3.0  # pixels between a label and anything else


@dataclass(frozen=True)
class Dot:
    """`points` is the change of accuracy in points of it. Networks in int8 are filled, those in float are not."""

    label: str
    latency_ms: Spread
    points: Spread
    filled: bool


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def overlap(self, other: Box) -> float:
        """The area that both have."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def within(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )


def draw(dots: Sequence[Dot], reference_ms: Spread, protocol: str, output: Path) -> tuple[Path, ...]:
    """Write OUTPUT.png (1200 x 800 pixels, on white) and OUTPUT.svg. Raises ImportError where there is no matplotlib.

    The reference is a star at no change; a line joins the dots that no other beats in both latency and accuracy.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams.update({"font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "frontier"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(12, 8), dpi=100, layout="constrained", facecolor="white")
    for dot in dots:
        _draw_dot(axes, dot)
    ends = [(dot.latency_ms.median, dot.points.median) for dot in not_beaten(dots)]
    axes.step(*zip(*ends, strict=True), where="post", color=_INT8, alpha=0.35, zorder=2)
    axes.plot(reference_ms.median, 0.0, marker="*", markersize=16, color="black", linestyle="none", zorder=4)
    axes.axhline(0.0, color=_QUIET, linewidth=0.8, linestyle=":", zorder=1)
    axes.axvline(reference_ms.median, color=_QUIET, linewidth=0.8, linestyle=":", zorder=1)
    _draw_axes(axes, dots, reference_ms)
    figure.supxlabel(protocol, fontsize=9, color="#555555")
    figure.canvas.draw()  # only now is known where everything is
    _draw_labels(figure, axes, dots, reference_ms)
    files = tuple(output.with_suffix(suffix) for suffix in (".png", ".svg"))
    figure.savefig(files[0])
    figure.savefig(files[1], metadata={"Date": None})  # the same numbers give the same bytes
    pyplot.close(figure)
    return files


def place_labels(
    anchors: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], obstacles: Sequence[Box], frame: Box
) -> list[Box]:
    """Where labels of these sizes go, each as near to its anchor as it can without covering another or an obstacle.

    All in pixels, in the given order. Where there is no free place, the one that covers least is taken.

    >>> place_labels([(50.0, 50.0)], [(20.0, 10.0)], [], Box(0, 0, 100, 100))[0]
    Box(left=62.0, bottom=45.0, right=82.0, top=55.0)
    """
    taken = list(obstacles)
    placed = []
    for anchor, size in zip(anchors, sizes, strict=True):
        inside = [box for box in _candidates(anchor, size) if box.within(frame)]
        covered = [(sum(box.overlap(other) for other in taken), index) for index, box in enumerate(inside)]
        box = inside[min(covered)[1]] if inside else next(_candidates(anchor, size))
        placed.append(box)
        taken.append(Box(box.left - _GAP, box.bottom - _GAP, box.right + _GAP, box.top + _GAP))
    return placed


def _candidates(anchor: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    """Places around a point, the near ones first; the right comes before the left, and the sides before the rest."""
    width, height = size
    for distance in (12.0, 20.0, 32.0, 46.0, 62.0, 80.0, 100.0, 125.0, 150.0):
        for turn in (0, 180, 45, 315, 135, 225, 90, 270, 20, 340, 160, 200, 65, 115, 245, 295):
            angle = math.radians(turn)
            x = anchor[0] + math.cos(angle) * (distance + width / 2)
            y = anchor[1] + math.sin(angle) * (distance + height / 2)
            yield Box.around(x, y, width, height)


def _draw_dot(axes: Any, dot: Dot) -> None:
    x, y, color = dot.latency_ms, dot.points, _INT8 if dot.filled else _FLOAT
    axes.errorbar(
        x.median,
        y.median,
        xerr=[[x.median - x.low], [x.high - x.median]],
        yerr=[[y.median - y.low], [y.high - y.median]],
        fmt="o" if dot.filled else "s",
        color=color,
        markerfacecolor=color if dot.filled else "white",
        markersize=8,
        elinewidth=1,
        capsize=3,
        zorder=3,
    )


def _draw_axes(axes: Any, dots: Sequence[Dot], reference_ms: Spread) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    latencies = [
        end for spread in (reference_ms, *(dot.latency_ms for dot in dots)) for end in (spread.low, spread.high)
    ]
    low, high = min(latencies) / 1.15, max(latencies) * 1.15
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.margins(y=0.12)
    faster = axes.secondary_xaxis("top", functions=(_ratio_to(reference_ms.median),) * 2)
    for axis, ends in (
        (axes.xaxis, (low, high)),
        (faster.xaxis, (reference_ms.median / high, reference_ms.median / low)),
    ):
        axis.set_major_locator(FixedLocator(_round_numbers(*ends)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("p50 latency of one inference, ms (bars: range of the sessions)")
    faster.set_xlabel("times faster than float")
    axes.set_ylabel("change of accuracy, points (bars: 95 % interval)")
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    kinds = [
        Line2D([], [], marker="o", color=_INT8, linestyle="none", markersize=8, label="int8"),
        Line2D(
            [], [], marker="s", color=_FLOAT, markerfacecolor="white", linestyle="none", markersize=8, label="float"
        ),
        Line2D([], [], color=_INT8, alpha=0.35, label="not beaten in both"),
    ]
    axes.legend(handles=kinds, loc="lower right", frameon=False)


def _ratio_to(reference_ms: float) -> Callable[[Any], Any]:
    """From a latency to how many times faster it is, and back; matplotlib asks for the one of zero, too."""
    import numpy as np

    return lambda value: reference_ms / np.maximum(value, 1e-9)


def _round_numbers(low: float, high: float) -> list[float]:
    """Round numbers between the two, as many as stay apart on a logarithmic axis."""
    steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if high / low < 8 else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [round(step * 10.0**decade, 9) for decade in decades for step in steps]
    return [number for number in found if low <= number <= high]


def _draw_labels(figure: Any, axes: Any, dots: Sequence[Dot], reference_ms: Spread) -> None:
    renderer = figure.canvas.get_renderer()

    def pixels(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across), float(up)

    named = [("float", pixels(reference_ms.median, 0.0))]
    named += [(dot.label, pixels(dot.latency_ms.median, dot.points.median)) for dot in dots]
    obstacles = [Box.around(*anchor, 14, 14) for _, anchor in named]
    for dot in dots:
        left, y = pixels(dot.latency_ms.low, dot.points.median)
        right, _ = pixels(dot.latency_ms.high, dot.points.median)
        x, bottom = pixels(dot.latency_ms.median, dot.points.low)
        _, top = pixels(dot.latency_ms.median, dot.points.high)
        obstacles += [Box(left, y - 4, right, y + 4), Box(x - 4, bottom, x + 4, top)]
    corners = [pixels(dot.latency_ms.median, dot.points.median) for dot in not_beaten(dots)]
    for (left, y), (right, next_y) in pairwise(corners):
        obstacles += [Box(left, y - 1, right, y + 1), Box(right - 1, min(y, next_y), right + 1, max(y, next_y))]
    legend = axes.get_legend().get_window_extent(renderer)
    obstacles.append(Box(legend.x0, legend.y0, legend.x1, legend.y1))
    area = axes.get_window_extent(renderer)
    frame = Box(area.x0 + 4, area.y0 + 4, area.x1 - 4, area.y1 - 4)
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    texts = [axes.text(0, 0, label, transform=None, va="bottom", ha="left", zorder=5, bbox=paper) for label, _ in named]
    extents = [text.get_window_extent(renderer) for text in texts]
    boxes = place_labels(
        [anchor for _, anchor in named], [(extent.width, extent.height) for extent in extents], obstacles, frame
    )
    to_data = axes.transData.inverted()
    for text, box, (_, anchor) in zip(texts, boxes, named, strict=True):
        text.set_transform(axes.transData)  # so that the label stands right in the SVG, whose pixels are others
        text.set_position(to_data.transform((box.left, box.bottom)))
        nearest = (min(max(anchor[0], box.left), box.right), min(max(anchor[1], box.bottom), box.top))
        if math.dist(nearest, anchor) > 18:
            ends = to_data.transform([anchor, nearest])
            axes.plot(ends[:, 0], ends[:, 1], color=_QUIET, linewidth=0.7, zorder=2, scalex=False, scaley=False)


def not_beaten(dots: Sequence[Dot]) -> list[Dot]:
    """Those that no other beats in both latency and accuracy, from the fastest on."""
    ordered = sorted(dots, key=lambda dot: (dot.latency_ms.median, -dot.points.median))
    return [
        dot
        for index, dot in enumerate(ordered)
        if all(dot.points.median > other.points.median for other in ordered[:index])
    ]
