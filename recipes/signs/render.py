"""Render small photographs of traffic signs with numpy and Pillow alone.

A sign from the catalogue is aged, turned in space, projected, set before a background, lit, partly hidden, and then
taken with a camera that blurs, has few noisy pixels and compresses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from camera import cast_shadow, light, photograph
from canvas import Style
from catalogue import SIGNS, draw
from numpy.typing import NDArray
from PIL import Image
from scenery import SIDE, Floats, Textures, background, blend, hide, lay_over, put_pole, to_planes

CLASSES: tuple[str, ...] = tuple(SIGNS)

_VARIANTS = 6
_DIRT = np.array([92, 84, 70], dtype=np.float32)[:, None, None]
_DRAWN_SIDE = 64
# Keeps the random streams of what all images share apart from those of the images, whose first key is their split's.
_SHARED_STREAM = 1_000


@dataclass(frozen=True)
class Place:
    """Where a sign is in the frame: centre and radius in pixels, roll in radians."""

    centre: tuple[float, float]
    radius: float
    roll: float


class Renderer:
    """Render any image of a data set, each from a random stream of its own.

    The image of (seed, split, index) is the same whatever was rendered before it.

    >>> renderer = Renderer(seed=2026)
    >>> renderer.render(3, split=0, index=17).shape
    (64, 64, 3)
    """

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._textures = Textures(self._generator(_SHARED_STREAM, 0))
        self._drawn: dict[tuple[int, int], tuple[Image.Image, Image.Image]] = {}

    def render(self, label: int, *, split: int, index: int) -> NDArray[np.uint8]:
        """Give a picture (64, 64, 3) of the class `label`."""
        generator = self._generator(split, index)
        return photograph(generator, light(generator, self._scene(generator, label)))

    def _generator(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(stream, index)))

    def _scene(self, generator: np.random.Generator, label: int) -> Floats:
        """Put a sign into its surroundings, evenly lit: (3, 64, 64), 0 to 255."""
        radius = SIDE * generator.uniform(0.32, 0.5)
        x, y = generator.normal(SIDE / 2, 0.04 * SIDE, 2).tolist()
        place = Place((x, y), radius, roll=generator.normal(0.0, 0.1))
        behind = background(generator, self._textures)
        if generator.random() < 0.7:
            put_pole(generator, behind, top=place.centre, lean=place.roll)
        scene = to_planes(behind)
        if generator.random() < 0.15:
            scene = self._put_neighbour(generator, scene, place)
        if generator.random() < 0.08:
            # At night headlights reach the sign, which throws their light back, and little else.
            scene = scene * generator.uniform(0.15, 0.4)
        scene = self._put_sign(generator, scene, label, place)
        if generator.random() < 0.35:
            scene = cast_shadow(generator, scene, self._textures)
        if generator.random() < 0.28:
            scene = hide(generator, scene, centre=place.centre, radius=place.radius)
        return scene

    def _put_neighbour(self, generator: np.random.Generator, scene: Floats, place: Place) -> Floats:
        """Put any sign above or below the one at `place`, so far off that the frame shows its edge at most."""
        side = -1 if generator.random() < 0.5 else 1
        x, y = place.centre
        beside = Place((x, y + side * place.radius * generator.uniform(2.0, 2.3)), place.radius, roll=0.0)
        return self._put_sign(generator, scene, int(generator.integers(len(CLASSES))), beside)

    def _put_sign(self, generator: np.random.Generator, scene: Floats, label: int, place: Place) -> Floats:
        yaw, pitch = np.clip(generator.normal(0.0, (0.4, 0.15)), -0.95, 0.95).tolist()
        coefficients = _projection(place, yaw=yaw, pitch=pitch, distance=generator.uniform(2.5, 8.0))
        large, small = self._drawing(label, int(generator.integers(_VARIANTS)))
        drawing = large if 2 * place.radius > 0.6 * _DRAWN_SIDE else small
        scale = drawing.width / 2
        placed = drawing.transform(
            (SIDE, SIDE),
            Image.Transform.PERSPECTIVE,
            [*(scale * v for v in coefficients[:6]), *coefficients[6:]],
            Image.Resampling.BILINEAR,
        )
        sign = to_planes(placed)
        sign[:3] = _age(generator, sign[:3], self._textures)
        return lay_over(scene, sign)

    def _drawing(self, label: int, variant: int) -> tuple[Image.Image, Image.Image]:
        """Give a drawing of the class at full and at half size."""
        key = (label, variant)
        if key not in self._drawn:
            generator = self._generator(_SHARED_STREAM, 1 + label * _VARIANTS + variant)
            stroke, glyph, border = generator.uniform((0.85, 0.9, 0.8), (1.15, 1.1, 1.15))
            large = draw(CLASSES[label], _DRAWN_SIDE, Style(stroke=stroke, glyph=glyph, border=border))
            self._drawn[key] = (large, large.reduce(2))
        return self._drawn[key]


def _projection(place: Place, *, yaw: float, pitch: float, distance: float) -> list[float]:
    """Give the eight coefficients that take an image's pixel to a drawing's coordinates, both axes from 0 to 2.

    The sign is turned by its roll, yaw and pitch in radians, and seen from `distance` radii away.
    """
    cos_yaw, sin_yaw = math.cos(yaw), math.sin(yaw)
    cos_pitch, sin_pitch = math.cos(pitch), math.sin(pitch)
    cos_roll, sin_roll = math.cos(place.roll), math.sin(place.roll)
    turn_yaw = np.array([[cos_yaw, 0.0, sin_yaw], [0.0, 1.0, 0.0], [-sin_yaw, 0.0, cos_yaw]])
    turn_pitch = np.array([[1.0, 0.0, 0.0], [0.0, cos_pitch, -sin_pitch], [0.0, sin_pitch, cos_pitch]])
    turn_roll = np.array([[cos_roll, -sin_roll, 0.0], [sin_roll, cos_roll, 0.0], [0.0, 0.0, 1.0]])
    turned = turn_pitch @ turn_yaw @ turn_roll
    x, y = place.centre
    lens = np.array([[place.radius, 0.0, x / distance], [0.0, place.radius, y / distance], [0.0, 0.0, 1.0 / distance]])
    forward = lens @ turned
    # The sign is flat: its third column meets the constant 1 of homogeneous coordinates instead of a depth.
    forward[:, 2] = (x, y, 1.0)
    shift = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    back = shift @ np.linalg.inv(forward)
    coefficients: list[float] = (back / back[2, 2]).ravel()[:8].tolist()
    return coefficients


def _age(generator: np.random.Generator, colours: Floats, textures: Textures) -> Floats:
    """Fade, discolour and soil a sign."""
    fade = 0.35 * generator.random() ** 2
    tint = generator.normal(1.0, 0.06, 3).astype(np.float32)
    aged: Floats = colours * ((1.0 - fade) * tint)[:, None, None] + np.float32(fade * 165.0)
    if generator.random() < 0.4:
        aged = blend(aged, _DIRT, np.float32(generator.uniform(0.2, 0.7)) * textures.dirt(generator))
    return aged
