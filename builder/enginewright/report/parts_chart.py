"""The layers that take the most time, in int8 and in float16, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from enginewright.report.engine_layers import PartRow
from enginewright.report.svg import at, element, figure
from enginewright.units import significant

__all__ = ["parts_chart"]

_ROW = 44  # pixels: a line of text and two bars
_BARS = 0.86  # of the width; what is right of them holds the figures
_LONGEST = 70  # characters of a name that stand over a bar on a narrow screen


def parts_chart(parts: Sequence[PartRow]) -> Markup:
    """Two bars for each part, from zero on one scale: float16 above int8, each with its time in microseconds."""
    longest_ns = max((max(part.int8_ns, part.float16_ns) for part in parts), default=0) or 1
    drawn: list[Markup] = []
    for index, part in enumerate(parts):
        top = index * _ROW
        drawn.append(element("text", _shortened(part.name), x=0, y=top + 12, class_="caption"))
        for offset, kind, time_ns in ((17, "reference", part.float16_ns), (28, "engine", part.int8_ns)):
            share = _BARS * time_ns / longest_ns
            label = significant(time_ns / 1e3)
            drawn.append(element("rect", x=0, y=top + offset, width=at(share), height=9, class_=kind))
            drawn.append(element("text", label, x=at(share), dx=5, y=top + offset + 8.5, class_=f"mark-label {kind}"))
    return figure("Time of the slowest parts of the network, in float16 and in int8, in µs", len(parts) * _ROW, drawn)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
