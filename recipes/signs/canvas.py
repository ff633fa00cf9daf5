"""A drawing board for signs: filled shapes and round-ended strokes in the sign's own coordinates.

The sign's outline fits into x and y from -1 to 1, x to the right and y down. Angles are in degrees, 0 to the right and
90 down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

_OVERSAMPLING = 4
_METAL: Colour = (120, 122, 124)


@dataclass(frozen=True)
class Style:
    """How one maker prints a sign: each figure is a factor around 1."""

    stroke: float = 1.0
    glyph: float = 1.0
    border: float = 1.0


class Sheet:
    """The metal that a sign is printed on: `size` pixels square, with antialiased edges once it is an image."""

    def __init__(self, size: int) -> None:
        side = size * _OVERSAMPLING
        self.unit = side / 2
        # The colours spill over the outline and alpha cuts them, so that an edge never mixes in a colour no sign has.
        self._colours = Image.new("RGB", (side, side), _METAL)
        self._outline = Image.new("L", (side, side), 0)
        self.pen = ImageDraw.Draw(self._colours)
        self.cutter = ImageDraw.Draw(self._outline)

    def image(self) -> Image.Image:
        """Give the drawing as RGBA; alpha is the share of each pixel inside the outline."""
        image = self._colours.copy()
        image.putalpha(self._outline)
        return image.reduce(_OVERSAMPLING)


@dataclass(frozen=True)
class Board:
    """A part of a sheet with its own origin and scale, so that a figure is drawn once and placed anywhere."""

    sheet: Sheet
    style: Style
    origin: Point = (0.0, 0.0)
    size: float = 1.0
    mirror: float = 1.0

    def inset(self, x: float, y: float, size: float, *, mirrored: bool = False) -> Board:
        """Give the board whose origin is at (x, y) of this one and whose unit is `size` of this one's."""
        origin = (self.origin[0] + self.mirror * self.size * x, self.origin[1] + self.size * y)
        mirror = -self.mirror if mirrored else self.mirror
        return replace(self, origin=origin, size=self.size * size, mirror=mirror)

    def cut(self, outline: Sequence[Point]) -> None:
        """Make this shape the outline of the sign."""
        self.sheet.cutter.polygon(self._pixels(outline), fill=255)

    def area(self, outline: Sequence[Point], fill: Colour) -> None:
        self.sheet.pen.polygon(self._pixels(outline), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.area(arc(x, y, radius, radius), fill)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draw a line through the points with round ends and joints."""
        pixels = self._pixels(points)
        pen_width = max(1, round(width * self.style.stroke * self.size * self.sheet.unit))
        self.sheet.pen.line(pixels, fill=fill, width=pen_width, joint="curve")
        radius = pen_width / 2
        for x, y in (pixels[0], pixels[-1]):
            self.sheet.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def arrow(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draw a stroke whose last point is the tip of an arrow head."""
        (x0, y0), (x1, y1) = points[-2], points[-1]
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        reach, half = 2.0 * width, 1.45 * width
        neck = (x1 - reach * ux, y1 - reach * uy)
        self.stroke([*points[:-1], (neck[0] + 0.3 * width * ux, neck[1] + 0.3 * width * uy)], width, fill)
        wings = [(neck[0] + side * half * uy, neck[1] - side * half * ux) for side in (1, -1)]
        self.area([(x1, y1), *wings], fill)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        unit = self.sheet.unit
        return [
            (
                (1 + self.origin[0] + self.mirror * self.size * x) * unit,
                (1 + self.origin[1] + self.size * y) * unit,
            )
            for x, y in points
        ]


def arc(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> list[Point]:
    """Give points along an ellipse from the angle `start` to `stop`; a smaller `stop` runs anticlockwise."""
    steps = max(4, math.ceil(abs(stop - start) / 10))
    angles = (math.radians(start + (stop - start) * step / steps) for step in range(steps + 1))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def rounded(corners: int, reach: float, radius: float, *, turn: float, y: float = 0.0) -> list[Point]:
    """Give a regular polygon with round corners.

    `reach` is the distance from (0, y) to the centre of each corner's arc, `radius` that of the arcs, and `turn` the
    angle at which the first corner lies.
    """
    half = 180 / corners
    points: list[Point] = []
    for corner in range(corners):
        angle = turn + 360 * corner / corners
        centre = (reach * math.cos(math.radians(angle)), y + reach * math.sin(math.radians(angle)))
        points += arc(*centre, radius, radius, angle - half, angle + half)
    return points
