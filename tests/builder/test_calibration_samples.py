"""Calibration takes samples from all over the split, and refuses what only takes the place of samples."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builder.lone_stage import Samples

from enginewright.calibration_samples import refuse_placeholders, share_out
from enginewright.datasets import Split
from enginewright.errors import DataError
from enginewright.signature import InputSpec, Signature

IMAGE = (3, 16, 16)


def split_of(
    samples: Any, shape: tuple[int, ...] = IMAGE, *, batch: int | str = "batch", dtype: str = "float32"
) -> Split:
    return Split("calibration", samples, Signature({"image": InputSpec((batch, *shape), dtype)}, ("scores",)))


def made(make: Callable[[np.random.Generator], Any], count: int = 24) -> list[tuple[Any, None]]:
    return [(make(np.random.default_rng(index)), None) for index in range(count)]


def refuse(samples: Any, shape: tuple[int, ...] = IMAGE, *, dtype: str = "float32") -> None:
    split = split_of(samples, shape, dtype=dtype)
    refuse_placeholders(split, range(len(split)))


def smooth(random: np.random.Generator) -> np.ndarray:
    """Something like a photograph: noise that was averaged over neighbours."""
    noise = random.standard_normal((3, 20, 20))
    return np.lib.stride_tricks.sliding_window_view(noise, (5, 5), (1, 2)).mean((3, 4))


@pytest.mark.parametrize(("total", "observed", "held_back"), [(2000, 512, 256), (683, 512, 171), (600, 450, 150)])
def test_what_is_held_back_is_what_is_not_observed(total: int, observed: int, held_back: int) -> None:
    """Of 683 and of 600 samples a quarter is held back, which is less than the 256 that are enough."""
    shares = share_out(split_of(Samples(total, IMAGE)), 512, hold_back=True)
    assert (len(shares.observed), len(shares.held_back)) == (observed, held_back)
    assert not set(shares.observed) & set(shares.held_back)
    for indices in (shares.observed, shares.held_back):
        assert len(set(indices)) == len(indices)
        # From all over the split: every fifth of it has its share.
        assert np.histogram(indices, bins=5, range=(0, total))[0].min() > 0.6 * len(indices) / 5


def test_nothing_is_held_back_where_the_method_is_given() -> None:
    shares = share_out(split_of(Samples(100, IMAGE)), 100, hold_back=False)
    assert (shares.observed, shares.held_back) == (tuple(range(100)), ())


def test_a_fixed_batch_size_gives_whole_batches_of_both() -> None:
    shares = share_out(split_of(Samples(100, IMAGE), batch=8), 90, hold_back=True)
    assert (len(shares.observed), len(shares.held_back)) == (72, 24)


@pytest.mark.parametrize(
    ("total", "wanted", "batch", "message"),
    [
        (31, 32, 1, "has 31 samples, and calibration.samples asks for 32"),
        (100, 31, 32, "batch size of 32 is more than calibration.samples asks for"),
        (40, 32, 32, "of 40 samples none can be held back"),
    ],
)
def test_too_few_samples_are_refused_with_the_numbers(total: int, wanted: int, batch: int, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        share_out(split_of(Samples(total, IMAGE), batch=batch), wanted, hold_back=True)
    assert caught.value.hint


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_split_of_constants_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="all 24 samples that calibration reads are the same") as caught:
        refuse(made(lambda _: np.full(IMAGE, value)))
    assert "what the network will see" in caught.value.hint
    with pytest.raises(
        DataError, match="each of the 24 samples that calibration reads holds the same value everywhere"
    ):
        refuse(made(lambda random: np.full(IMAGE, random.standard_normal())))


def test_one_sample_again_and_again_is_refused() -> None:
    with pytest.raises(DataError, match="all 24 samples that calibration reads are the same"):
        refuse(made(lambda _: smooth(np.random.default_rng(1))))


@pytest.mark.parametrize(
    "noise",
    [
        lambda random: random.standard_normal(IMAGE),
        lambda random: random.uniform(0, 1, IMAGE),
        lambda random: random.standard_cauchy(IMAGE),
        lambda random: random.standard_normal(IMAGE) * 0.2 + np.array([1.0, -3.0, 40.0])[:, None, None],
    ],
    ids=["normal", "uniform", "heavy tails", "channels with means of their own"],
)
@pytest.mark.parametrize("count", [8, 200])
def test_white_noise_is_refused(noise: Any, count: int) -> None:
    with pytest.raises(
        DataError, match=f"is noise: in none of {count} samples do neighbouring pixels of image"
    ) as caught:
        refuse(made(noise, count))
    assert "placeholders give ranges that mean nothing" in caught.value.hint


def test_noise_in_many_small_images_is_refused() -> None:
    """In an image of 8x8 around its own mean, two independent pixels are correlated by -1/63."""
    with pytest.raises(DataError, match="is noise"):
        refuse(made(lambda random: random.standard_normal((3, 8, 8)), 1000), (3, 8, 8))


def test_noise_of_bytes_with_the_channels_last_is_refused() -> None:
    with pytest.raises(DataError, match="is noise"):
        refuse(made(lambda random: random.integers(0, 256, (16, 16, 3))), (16, 16, 3), dtype="uint8")


@pytest.mark.parametrize(
    "image",
    [
        smooth,
        lambda random: smooth(random) + random.standard_normal(IMAGE) * 0.3,
        lambda random: np.where(np.indices(IMAGE).sum(0) % 2, 1.0, -1.0) * random.uniform(1, 2),
        lambda random: (random.uniform(size=IMAGE) < 0.02) * 1.0,
        lambda random: np.repeat(random.standard_normal((3, 16, 1)), 16, 2),
    ],
    ids=["smooth", "a signal in more noise", "a checkerboard", "a few points on black", "stripes"],
)
def test_images_are_not_taken_for_noise(image: Any) -> None:
    refuse(made(image))


def test_a_single_image_among_noise_is_enough() -> None:
    samples = made(lambda random: random.standard_normal(IMAGE))
    samples[17] = (smooth(np.random.default_rng(0)), None)
    refuse(samples)


@pytest.mark.parametrize(
    ("shape", "make", "dtype"),
    [
        ((32,), lambda random: random.standard_normal(32), "float32"),
        ((16, 16), lambda random: random.standard_normal((16, 16)), "float32"),
        ((4, 7, 7), lambda random: random.standard_normal((4, 7, 7)), "float32"),
        ((64,), lambda random: random.integers(0, 50_000, 64), "int64"),
        ((3, 16, 16), lambda random: random.integers(0, 50_000, (3, 16, 16)), "int64"),
        ((), lambda random: random.standard_normal(), "float32"),
    ],
    ids=["features", "a sequence", "small maps", "tokens", "tokens in a grid", "one number"],
)
def test_what_is_no_image_may_look_random(shape: tuple[int, ...], make: Any, dtype: str) -> None:
    refuse(made(make), shape, dtype=dtype)


def test_noise_beside_an_image_is_an_input_like_any_other() -> None:
    specs = {name: InputSpec(("batch", *IMAGE), "float32") for name in ("image", "noise")}
    pairs = [
        (
            {
                "image": smooth(np.random.default_rng(index)),
                "noise": np.random.default_rng(index).standard_normal(IMAGE),
            },
            0,
        )
        for index in range(24)
    ]
    split = Split("calibration", pairs, Signature(specs, ("scores",)))
    refuse_placeholders(split, range(24))


def test_of_real_data_two_samples_are_read() -> None:
    read: list[int] = []

    class Watched(Samples):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return smooth(np.random.default_rng(index)), None

    refuse(Watched(100, IMAGE))
    assert read == [0, 1]


_ROOT = Path(__file__).parents[2]
_PHOTOGRAPHS = (
    _ROOT / (os.environ.get("ENGINEWRIGHT_DATA") or "../shared/data") / "traffic-lights/traffic_lights_64x32.npz"
)


@pytest.mark.parametrize(
    ("recipe", "factory", "shape"),
    [("signs", "Signs", (3, 64, 64)), ("lights", "Lights", (3, 64, 32)), ("resnet20", "Photographs", (3, 32, 32))],
)
def test_no_image_of_the_recipes_looks_like_noise(
    recipe: str, factory: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if recipe != "signs" and not _PHOTOGRAPHS.is_file():
        pytest.skip(f"there is no {_PHOTOGRAPHS}: set ENGINEWRIGHT_DATA to the folder with the data")
    folder = _ROOT / "recipes" / recipe
    monkeypatch.syspath_prepend(str(folder))
    modules = {file.stem for file in folder.glob("*.py")}
    with monkeypatch.context() as within:
        for name in modules & set(sys.modules):
            within.delitem(sys.modules, name)
        make = getattr(importlib.import_module("data"), factory)
        data = make() if recipe == "signs" else make(str(_PHOTOGRAPHS))
        split = split_of(data.calibration, shape)
        for index in range(100):
            refuse_placeholders(split, [index])
        for name in modules & set(sys.modules):
            del sys.modules[name]
