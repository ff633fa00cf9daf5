"""SVG as escaped text: elements, paths, the pictures that charts are drawn in, and the axes that they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

STRETCHED_WIDTH = 1000.0


def element(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. Text children and attribute values are escaped unless they are Markup; `class_` gives class, `stroke_width` stroke-width.

    >>> element("text", "a < b", x="50%", class_="tick")
    Markup('<text x="50%" class="tick">a &lt; b</text>')
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(children)
    if not inside:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{inside}</{tag}>")


def path(points: Iterable[tuple[float, float]], **attributes: str | float | None) -> Markup:
    """A line through points, written with relative whole tenths, which is a third of the size of absolute decimals."""
    words: list[str] = []
    last: tuple[int, int] | None = None
    for x, y in points:
        here = (round(x * 10), round(y * 10))
        if last is None:
            words.append(f"M{_tenths(here[0])} {_tenths(here[1])}")
        elif here != last:
            words.append(f"l{_tenths(here[0] - last[0])} {_tenths(here[1] - last[1])}")
        last = here
    return element("path", d="".join(words), **attributes)


def figure(title: str, height: float, parts: Iterable[Markup]) -> Markup:
    """A chart that stands alone, as wide as its place."""
    return element(
        "svg",
        element("title", title),
        *parts,
        width="100%",
        height=height,
        role="img",
        class_="figure",
        aria_label=title,
    )


def cell_chart(height: int, *parts: Markup) -> Markup:
    """A chart in a table's cell, beside the number that it shows."""
    return element("svg", *parts, width="100%", height=height, aria_hidden="true")


def stretched(top: float, height: float, *parts: Markup) -> Markup:
    """A picture within a chart: STRETCHED_WIDTH units are the chart's width, whatever that is, and a unit of height is a pixel."""
    return element(
        "svg",
        *parts,
        x=0,
        y=top,
        width="100%",
        height=height,
        viewBox=f"0 0 {STRETCHED_WIDTH:.0f} {height:.0f}",
        preserveAspectRatio="none",
    )


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis from `low` to `high`, as a share of its length."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end.

        >>> LogAxis(1.0, 100.0).share(10.0)
        0.5
        """
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, closest: float = 0.09) -> tuple[float, ...]:
        """Round numbers on the axis, none closer to the next than a share of `closest`: 1, 2 and 5 of each decade, or even steps where the
        axis is short.

        >>> LogAxis(0.4, 6.0).ticks(), LogAxis(1.7, 2.6).ticks()
        ((0.5, 1.0, 2.0, 5.0), (1.8, 2.0, 2.2, 2.4, 2.6))
        """
        found: list[float] = []
        for tick in self._decade_ticks() if self.high / self.low >= 8 else even_ticks(self.low, self.high):
            if not found or self.share(tick) - self.share(found[-1]) >= closest:
                found.append(tick)
        return tuple(found)

    def _decade_ticks(self) -> list[float]:
        decades = math.log10(self.high / self.low)
        mantissas = (1.0, 2.0, 5.0) if decades < 3.5 else (1.0,)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return _inside((_round(mantissa, power) for power in powers for mantissa in mantissas), self.low, self.high)


def even_ticks(low: float, high: float, *, closest: float = 0.16) -> list[float]:
    """Round numbers from `low` to `high` in steps of 1, 2 or 5 times a power of ten, at least a share of `closest` apart.

    >>> even_ticks(0.921, 0.947, closest=0.3), even_ticks(-3.0, 12.0)
    ([0.93, 0.94], [0.0, 5.0, 10.0])
    """
    wanted = closest * (high - low)
    power = math.floor(math.log10(wanted))
    mantissa = min(candidate for candidate in (1.0, 2.0, 5.0, 10.0) if _round(candidate, power) >= wanted)
    step = _round(mantissa, power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return _inside((_round(mantissa * number, power) for number in range(first, last + 1)), low, high)


def at(share: float) -> str:
    """A share as a coordinate in percent, so that a chart stretches while its text keeps its size."""
    return f"{_number(round(share * 100, 2))}%"


def _inside(ticks: Iterable[float], low: float, high: float) -> list[float]:
    """Those within the ends, or on one of them but for rounding."""
    return [tick for tick in ticks if low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high)]


def _round(mantissa: float, power: int) -> float:
    """A decimal number as its text would be read: 5.0 * 10.0**-1 and its like are not the round number that is meant."""
    return float(f"{mantissa:.12g}e{power}")


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _tenths(value: int) -> str:
    whole, tenth = divmod(abs(value), 10)
    return f"{'-' if value < 0 else ''}{whole}{f'.{tenth}' if tenth else ''}"
