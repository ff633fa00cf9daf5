"""What stands behind a sign and what gets in front of it.

Scenes are float32 arrays (3, SIDE, SIDE) from 0 to 255: planes of colour, with which numpy is several times as fast as
with colour last. Coordinates are pixels from the upper left corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE = 64

Floats = NDArray[np.float32]

_FIELD_SIDE = 256
# Exponents of the amplitude spectrum: 0.6 looks like leaves and gravel, 1.1 like plaster, 1.7 like clouds and shade.
_ROUGH, _MEDIUM, _SMOOTH = 0, 1, 2
_EXPONENTS = (0.6, 1.1, 1.7)

_ROWS = np.arange(SIDE, dtype=np.float32)[:, None]
_COLUMNS = np.arange(SIDE, dtype=np.float32)[None, :]


@dataclass(frozen=True)
class Surface:
    """A kind of background: the range of its colour and how rough it is."""

    darkest: tuple[int, int, int]
    lightest: tuple[int, int, int]
    texture: int
    contrast: float


_SKY = Surface((120, 160, 205), (190, 215, 250), _SMOOTH, 0.05)
_OVERCAST = Surface((165, 170, 178), (240, 242, 245), _SMOOTH, 0.05)
_FOLIAGE = Surface((28, 44, 18), (96, 118, 62), _ROUGH, 0.45)
_BARE_TREES = Surface((70, 62, 52), (150, 142, 130), _ROUGH, 0.35)
_WALL = Surface((120, 108, 92), (205, 196, 180), _MEDIUM, 0.1)
_BRICK = Surface((104, 52, 40), (168, 98, 76), _MEDIUM, 0.15)
_ASPHALT = Surface((52, 54, 58), (118, 120, 124), _MEDIUM, 0.12)
_EARTH = Surface((92, 78, 52), (170, 152, 108), _ROUGH, 0.2)
_GRASS = Surface((70, 92, 34), (140, 152, 78), _ROUGH, 0.22)
_ABOVE = (_SKY, _SKY, _OVERCAST, _OVERCAST, _FOLIAGE, _FOLIAGE, _BARE_TREES, _WALL, _BRICK)
_BELOW = (_FOLIAGE, _FOLIAGE, _BARE_TREES, _WALL, _BRICK, _ASPHALT, _ASPHALT, _EARTH, _GRASS)


class Textures:
    """Fields of 1/f noise with mean 0 and deviation 1, cut at random places."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._fields = [_field(generator, exponent) for exponent in _EXPONENTS]

    def cut(self, generator: np.random.Generator, kind: int) -> Floats:
        """Give a piece (SIDE, SIDE) at a random place, at the field's own scale or at half of it."""
        stride = 1 + int(generator.integers(2))
        row, column = generator.integers(_FIELD_SIDE - stride * SIDE, size=2)
        reach = stride * SIDE
        return self._fields[kind][row : row + reach : stride, column : column + reach : stride]

    def shade(self, generator: np.random.Generator) -> Floats:
        """Give dappled shade (SIDE, SIDE): 0 in the sun, 1 in the shadow of leaves."""
        return clip_to_share(0.5 + 2.0 * self.cut(generator, _SMOOTH))

    def dirt(self, generator: np.random.Generator) -> Floats:
        """Give the density of dirt (SIDE, SIDE): 0 on most of the area, up to 1 in spots."""
        return clip_to_share(0.7 * self.cut(generator, _MEDIUM) - 0.4)


def _field(generator: np.random.Generator, exponent: float) -> Floats:
    rows = np.fft.fftfreq(_FIELD_SIDE)[:, None]
    columns = np.fft.rfftfreq(_FIELD_SIDE)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(generator.standard_normal((_FIELD_SIDE, _FIELD_SIDE))) * frequency**-exponent
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum)
    scaled: Floats = (field / field.std()).astype(np.float32)
    return scaled


def background(generator: np.random.Generator, textures: Textures) -> Image.Image:
    """Paint two surfaces that meet at an uneven horizon, with up to five things before them, out of focus."""
    above = _paint(generator, textures, _ABOVE[generator.integers(len(_ABOVE))])
    below = _paint(generator, textures, _BELOW[generator.integers(len(_BELOW))])
    horizon = np.float32(generator.uniform(-0.3, 1.4) * SIDE)
    uneven = np.float32(generator.uniform(0.0, 6.0)) * textures.cut(generator, _SMOOTH)
    share = clip_to_share((_ROWS - horizon + uneven) / np.float32(generator.uniform(1.0, 5.0)))
    image = to_image(blend(above, below, share))
    pen = ImageDraw.Draw(image)
    for _ in range(generator.integers(6)):
        _put_thing(generator, pen)
    blur = generator.uniform(0.0, 2.2)
    return image.filter(ImageFilter.BoxBlur(blur)) if blur > 0.4 else image


def _paint(generator: np.random.Generator, textures: Textures, surface: Surface) -> Floats:
    mix, tint = generator.random(), generator.uniform(-8.0, 8.0, 3)
    darkest, lightest = np.array(surface.darkest), np.array(surface.lightest)
    colour = (darkest + mix * (lightest - darkest) + tint).astype(np.float32)
    relief = np.float32(1.0) + np.float32(surface.contrast) * textures.cut(generator, surface.texture)
    painted: Floats = relief * colour[:, None, None]
    return painted


def _put_thing(generator: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """Draw a building, a window, a pole, a wire or a coloured board."""
    x, y = generator.uniform(-10, SIDE + 10, 2)
    level = generator.uniform(25, 225)
    vivid = 18.0 if generator.random() < 0.75 else 80.0
    red, green, blue = (int(v) for v in np.clip(level + generator.normal(0, vivid, 3), 0, 255))
    fill = (red, green, blue)
    kind = generator.random()
    if kind < 0.35:
        width, height = generator.uniform(8, 45, 2)
        pen.rectangle((x, y, x + width, y + height), fill=fill)
    elif kind < 0.6:
        lean = generator.uniform(-5, 5)
        pen.line((x, -2, x + lean, SIDE + 2), fill=fill, width=int(generator.integers(1, 6)))
    elif kind < 0.8:
        slope = generator.uniform(-25, 25)
        pen.line((-2, y, SIDE + 2, y + slope), fill=fill, width=int(generator.integers(1, 4)))
    else:
        around = generator.uniform(-22, 22, 6)
        pen.polygon([(x + around[i], y + around[i + 1]) for i in (0, 2, 4)], fill=fill)


def put_pole(generator: np.random.Generator, image: Image.Image, *, top: tuple[float, float], lean: float) -> None:
    """Draw the pole of a sign, from the sign's centre `top` downwards; `lean` is in radians."""
    level = int(generator.integers(60, 190))
    width = int(generator.integers(2, 6))
    x, y = top
    end = (x - math.tan(lean) * (SIDE + 4 - y), SIDE + 4.0)
    pen = ImageDraw.Draw(image)
    pen.line((top, end), fill=(level, level, level + 4), width=width)
    pen.line(((x - width / 4, y), (end[0] - width / 4, end[1])), fill=(level + 40, level + 40, level + 40), width=1)


def hide(generator: np.random.Generator, scene: Floats, *, centre: tuple[float, float], radius: float) -> Floats:
    """Put a branch, a sticker or the edge of something nearer before a sign at `centre` with `radius` in pixels."""
    # Drawn at twice the size, for smooth edges.
    layer = Image.new("RGBA", (2 * SIDE, 2 * SIDE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    middle, reach = (2 * centre[0], 2 * centre[1]), 2 * radius
    kind = generator.random()
    if kind < 0.5:
        _put_branch(generator, pen, middle, reach)
    elif kind < 0.75:
        for _ in range(generator.integers(1, 4)):
            _put_sticker(generator, pen, middle, reach)
    else:
        _put_edge(generator, pen, middle, reach)
    return lay_over(scene, to_planes(layer.reduce(2)))


def _put_branch(
    generator: np.random.Generator, pen: ImageDraw.ImageDraw, centre: tuple[float, float], reach: float
) -> None:
    angle = generator.uniform(0, 2 * math.pi)
    x = centre[0] + 1.2 * reach * math.cos(angle)
    y = centre[1] + 1.2 * reach * math.sin(angle)
    heading = angle + math.pi + generator.uniform(-0.9, 0.9)
    length = reach * generator.uniform(0.5, 1.3)
    tip = (x + length * math.cos(heading), y + length * math.sin(heading))
    dark = int(generator.integers(18, 60))
    pen.line(((x, y), tip), fill=(dark + 14, dark + 8, dark, 255), width=int(generator.integers(1, 4)))
    if generator.random() < 0.7:
        base = generator.uniform((30, 48, 15), (95, 120, 55))
        for along, dx, dy, size, light in generator.random((12, 5)):
            leaf_x = x + along * (tip[0] - x) + (dx - 0.5) * 0.3 * reach
            leaf_y = y + along * (tip[1] - y) + (dy - 0.5) * 0.3 * reach
            half = 2.0 + 4.0 * size
            red, green, blue = (int((0.6 + 0.7 * light) * v) for v in base)
            box = (leaf_x - half, leaf_y - 0.7 * half, leaf_x + half, leaf_y + 0.7 * half)
            pen.ellipse(box, (red, green, blue, 255))


def _put_sticker(
    generator: np.random.Generator, pen: ImageDraw.ImageDraw, centre: tuple[float, float], reach: float
) -> None:
    x = centre[0] + reach * generator.uniform(-0.65, 0.65)
    y = centre[1] + reach * generator.uniform(-0.65, 0.65)
    half_width, half_height = reach * generator.uniform(0.07, 0.2, 2)
    red, green, blue = (int(v) for v in generator.integers(20, 245, 3))
    if generator.random() < 0.6:
        pen.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), (red, green, blue, 255))
    else:
        # Scrawled with a marker.
        turns = generator.uniform(-2.2, 2.2, (6, 2))
        points = [(x + dx * half_width, y + dy * half_height) for dx, dy in turns]
        pen.line(points, fill=(red // 3, green // 3, blue // 3, 255), width=2)


def _put_edge(
    generator: np.random.Generator, pen: ImageDraw.ImageDraw, centre: tuple[float, float], reach: float
) -> None:
    """Cover everything beyond a straight line that cuts off up to a third of the sign."""
    angle = generator.uniform(0, 2 * math.pi)
    normal = (math.cos(angle), math.sin(angle))
    distance = reach * generator.uniform(0.45, 1.0)
    x, y = centre[0] + distance * normal[0], centre[1] + distance * normal[1]
    along, far = (-normal[1] * 300, normal[0] * 300), (normal[0] * 300, normal[1] * 300)
    level = int(generator.integers(20, 200))
    red, green, blue = (max(0, min(255, level + int(v))) for v in generator.integers(-20, 21, 3))
    corners = [
        (x - along[0], y - along[1]),
        (x + along[0], y + along[1]),
        (x + along[0] + far[0], y + along[1] + far[1]),
        (x - along[0] + far[0], y - along[1] + far[1]),
    ]
    pen.polygon(corners, fill=(red, green, blue, 255))


def blend(under: Floats, over: Floats, share: Floats) -> Floats:
    """Mix two scenes; `share` is that of `over`, from 0 to 1."""
    mixed: Floats = under + (over - under) * share
    return mixed


def lay_over(scene: Floats, layer: Floats) -> Floats:
    """Put a layer (4, SIDE, SIDE), whose last plane says how much it covers from 0 to 255, on a scene."""
    return blend(scene, layer[:3], layer[3] / np.float32(255.0))


def clip_to_share(values: Floats) -> Floats:
    """Clip to 0 and 1."""
    share: Floats = np.clip(values, np.float32(0.0), np.float32(1.0))
    return share


def to_image(planes: Floats) -> Image.Image:
    """Round and clip planes (3, height, width) to an image of 8 bits."""
    rounded = np.clip(planes + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(rounded.transpose(1, 2, 0)))


def to_planes(image: Image.Image) -> Floats:
    """Give an image as planes (channels, height, width)."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32)
