"""Light and camera: what happens to a scene on its way into a 64x64 crop.

Scenes are float32 planes (3, SIDE, SIDE) from 0 to 255, gamma-encoded, as everywhere in this renderer.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scenery import SIDE, Floats, Textures, blend, clip_to_share, to_image, to_planes

_FEWEST_PIXELS = 14

_ROWS = (np.arange(SIDE, dtype=np.float32)[:, None] + 0.5) / SIDE - 0.5
_COLUMNS = (np.arange(SIDE, dtype=np.float32)[None, :] + 0.5) / SIDE - 0.5


def cast_shadow(generator: np.random.Generator, scene: Floats, textures: Textures) -> Floats:
    """Darken the part of the scene that lies in the shadow of leaves or behind a straight edge."""
    depth = generator.uniform(0.25, 0.65)
    if generator.random() < 0.5:
        shade = textures.shade(generator)
    else:
        shade = clip_to_share(np.float32(0.5) + _ramp(generator) * np.float32(generator.uniform(3.0, 30.0)))
    return blend(scene, np.float32(1.0 - depth) * scene, shade)


def light(generator: np.random.Generator, scene: Floats) -> Floats:
    """Expose the scene: brightness with a gradient, colour temperature, contrast and haze."""
    gain = math.exp(generator.normal(0.0, 0.3))
    if generator.random() < 0.12:
        gain *= generator.uniform(0.35, 0.6)
    warmth, green = generator.normal(0.0, 0.09), generator.normal(0.0, 0.03)
    gains = gain * np.exp(np.array([warmth, green, -warmth], dtype=np.float32))
    exposed = scene * gains[:, None, None]
    if generator.random() < 0.4:
        exposed *= 1.0 + generator.uniform(0.2, 0.9) * _ramp(generator)
    contrast = generator.uniform(0.6, 1.15)
    haze = generator.uniform(20.0, 200.0) * (1.0 - contrast) if contrast < 1.0 else 128.0 * (1.0 - contrast)
    developed: Floats = exposed * np.float32(contrast) + np.float32(haze)
    return developed


def photograph(generator: np.random.Generator, scene: Floats) -> NDArray[np.uint8]:
    """Blur the scene, take it with few noisy pixels, compress it, and resize it to (SIDE, SIDE, 3) uint8."""
    image = to_image(scene)
    if generator.random() < 0.4:
        image = image.filter(_motion(int(generator.integers(16)), int(generator.integers(1, 5))))
    if generator.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.4, 1.9)))
    # Most signs are far away: their crops have few pixels of their own.
    pixels = round(_FEWEST_PIXELS * (SIDE / _FEWEST_PIXELS) ** generator.random())
    image = image.resize((pixels, pixels), Image.Resampling.BOX)
    image = to_image(_expose(generator, to_planes(image)))
    if generator.random() < 0.5:
        image = _compress(image, quality=int(generator.integers(25, 90)))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _expose(generator: np.random.Generator, planes: Floats) -> Floats:
    """Add noise: the sensor's own, and that of light, which grows with the root of the level; colour noise is less."""
    strength = generator.uniform(0.0, 1.0) ** 2
    deviation = np.float32(strength) * np.sqrt(np.float32(16.0) + np.float32(2.0) * planes)
    noise = np.float32(0.6) * generator.standard_normal(planes.shape, dtype=np.float32)
    noise += np.float32(0.8) * generator.standard_normal(planes.shape[1:], dtype=np.float32)
    noisy: Floats = planes + deviation * noise
    return noisy


def _compress(image: Image.Image, *, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer, formats=["JPEG"])


def _ramp(generator: np.random.Generator) -> Floats:
    """Give a plane (SIDE, SIDE) of slope 1 over the image's side, zero on a random line near the middle."""
    angle = generator.uniform(0.0, 2 * math.pi)
    shift = generator.uniform(-0.3, 0.3)
    ramp: Floats = np.float32(math.cos(angle)) * _COLUMNS + np.float32(math.sin(angle)) * _ROWS + np.float32(shift)
    return ramp


@lru_cache(maxsize=64)
def _motion(direction: int, length: int) -> ImageFilter.Kernel:
    """Give the kernel of a straight motion over `length` pixels in one of 16 directions."""
    angle = math.pi * direction / 16
    weights = np.zeros((5, 5))
    for step in np.linspace(-length / 2, length / 2, 17):
        x, y = 2 + step * math.cos(angle), 2 + step * math.sin(angle)
        column, row = min(3, math.floor(x)), min(3, math.floor(y))
        right, down = x - column, y - row
        weights[row, column] += (1 - right) * (1 - down)
        weights[row, column + 1] += right * (1 - down)
        weights[row + 1, column] += (1 - right) * down
        weights[row + 1, column + 1] += right * down
    return ImageFilter.Kernel((5, 5), weights.ravel().tolist(), scale=float(weights.sum()))
