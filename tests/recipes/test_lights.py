"""Recipe `lights`: how its photographs are shared out, and what the committed weights are worth."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.recipes.recipe_module import ROOT, load_module

from enginewright.compression import Prune, Quantize
from enginewright.metrics import BalancedAccuracy
from enginewright.recipe import load_recipe
from enginewright.target import load_target

PHOTOGRAPHS = (
    ROOT / (os.environ.get("ENGINEWRIGHT_DATA") or "../shared/data") / "traffic-lights/traffic_lights_64x32.npz"
)

needs_photographs = pytest.mark.skipif(
    not PHOTOGRAPHS.is_file(), reason=f"there is no {PHOTOGRAPHS}: set ENGINEWRIGHT_DATA to the folder with the data"
)


def digests(split: Sequence[Any]) -> set[str]:
    return {hashlib.sha256(image.tobytes()).hexdigest() for image, _ in split}


def counts(split: Sequence[Any]) -> list[int]:
    labels = Counter(label for _, label in split)
    return [labels[label] for label in range(3)]


@pytest.fixture(scope="module")
def photographs() -> Any:
    return load_module("lights", "data").Lights(str(PHOTOGRAPHS))


def test_missing_photographs_are_an_error_that_says_where_they_were_looked_for_and_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_module("lights", "data").Lights(str(tmp_path / "traffic-lights/traffic_lights_64x32.npz"))
    message = str(caught.value)
    assert f"the folder {tmp_path.resolve() / 'traffic-lights'} has no file traffic_lights_64x32.npz" in message
    assert "Set the environment variable ENGINEWRIGHT_DATA" in message


def test_an_image_stays_in_its_split_when_the_file_has_another_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, size=(60, 64, 32, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(3, dtype=np.uint8), [30, 10, 20])
    splits: list[list[set[str]]] = []
    for order in (np.arange(60), generator.permutation(60)):
        file = tmp_path / f"{len(splits)}.npz"
        np.savez(file, x_train=pixels[order], y_train=labels[order])
        data = load_module("lights", "data").Lights(str(file))
        splits.append([digests(split) for split in (data.train, data.validation, data.calibration)])
    assert splits[0] == splits[1]
    assert [len(split) for split in splits[0]] == [42, 12, 6]


@needs_photographs
def test_no_image_is_in_two_splits_and_none_is_lost(photographs: Any) -> None:
    splits = (photographs.train, photographs.validation, photographs.calibration, photographs.test)
    sizes = [len(digests(split)) for split in splits]
    assert sizes == [830, 238, 119, 297]
    assert len(set().union(*map(digests, splits))) == sum(sizes)


@needs_photographs
def test_every_split_has_yellow_images_and_the_training_split_as_many_of_each_class(photographs: Any) -> None:
    assert photographs.classes == ["red", "yellow", "green"]
    assert counts(photographs.test) == [181, 9, 107]
    assert counts(photographs.validation) == [145, 7, 86]
    assert counts(photographs.calibration) == [72, 4, 43]
    assert counts(photographs.train) == [506, 506, 506]


@needs_photographs
def test_the_validation_split_is_the_one_that_the_committed_weights_were_chosen_by(photographs: Any) -> None:
    # Where this fails, images that the weights were trained on have moved into other splits: train them anew.
    pixels = np.stack([image for image, _ in photographs.validation])
    assert (
        hashlib.sha256(pixels.tobytes()).hexdigest()
        == "763861d883c1992b09837b68c091c4c07427805a7d66cfacf1e8bfd62ec310b5"
    )


@needs_photographs
def test_the_committed_weights_get_at_most_one_yellow_test_image_wrong(photographs: Any) -> None:
    network = load_module("lights", "model").LightNet().eval()
    network.load_state_dict(load_file(ROOT / "recipes/lights/lights.safetensors"))
    images = np.stack([image for image, _ in photographs.test])
    labels = np.array([label for _, label in photographs.test])
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    metric = BalancedAccuracy()
    metric.update({"logits": logits}, labels, None)
    score = metric.score()
    # One yellow image is 3.7 points of balanced accuracy.
    assert score.value >= 0.96, (
        f"balanced accuracy {score.value:.4f}; true class by row, called by column:\n{score.confusion}"
    )


@needs_photographs
def test_the_recipe_asks_for_what_the_data_and_the_network_give(photographs: Any) -> None:
    target = load_target("cpu", (ROOT / "targets",))
    recipe = load_recipe(ROOT / "recipes/lights.yaml", target=target, settings={}, environment={})
    image, _ = photographs.test[0]
    assert recipe.model.inputs["image"].shape == ("batch", *image.shape)
    assert recipe.model.inputs["image"].dtype == image.dtype
    network = load_module("lights", "model").LightNet(**recipe.model.arguments)
    for step in recipe.compress:
        if isinstance(step, Prune):
            assert set(step.keep) <= {name for name, _ in network.named_modules()}
        if isinstance(step, Quantize):
            assert step.calibration.samples <= len(photographs.calibration)
