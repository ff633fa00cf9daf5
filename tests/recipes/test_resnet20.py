"""Recipe `resnet20`: the network rebuilt here computes what its author's weights are known to compute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.recipes.recipe_module import ROOT, load_module

from enginewright.checkpoint import read_weights
from enginewright.recipe import load_recipe
from enginewright.target import load_target

DATA = ROOT / (os.environ.get("ENGINEWRIGHT_DATA") or "../shared/data")
PHOTOGRAPHS = DATA / "traffic-lights/traffic_lights_64x32.npz"
WEIGHTS = ("resnet20-12fca82f.th", "resnet20_weights.npz")

# From the README of the weights: float32, four digits after the point, computed with PyTorch on a CPU.
FIRST_LOGITS = [-1.9534, 2.0725, -0.5304, 6.1603, -8.7130, -0.7714, -6.3661, -3.3062, 5.6280, 7.7194]
MEAN_LOGITS = [1.3506, 0.1509, 0.9268, 4.0517, -5.1903, -2.0545, -3.8734, -1.0312, 3.4545, 2.1600]
TOLERANCE = 5e-4  # the rounding of the figures, and the order in which another processor adds


def needs(path: Path) -> None:
    if not path.is_file():
        pytest.skip(f"there is no {path}: set ENGINEWRIGHT_DATA to the folder with the data")


@pytest.fixture
def photographs() -> Any:
    needs(PHOTOGRAPHS)
    return load_module("resnet20", "data").Photographs(str(PHOTOGRAPHS))


@pytest.mark.parametrize("file", WEIGHTS)
def test_the_published_weights_give_the_logits_of_the_loading_check(file: str, photographs: Any) -> None:
    weights = DATA / "resnet20-cifar10" / file
    needs(weights)
    network = load_module("resnet20", "model").ResNet20().eval()
    # read_weights takes a .th file under weights_only=True; load_state_dict refuses a name too few or too many.
    network.load_state_dict(read_weights(weights, weights.suffix))
    images = np.stack([image for image, _ in photographs.test])
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits[0], FIRST_LOGITS, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(logits.mean(axis=0), MEAN_LOGITS, rtol=0, atol=TOLERANCE)


def test_the_network_has_as_many_parameters_as_published() -> None:
    assert sum(parameter.numel() for parameter in load_module("resnet20", "model").ResNet20().parameters()) == 269_722


def test_the_data_has_images_to_calibrate_and_to_compare_with_and_no_labels(photographs: Any) -> None:
    assert (len(photographs.calibration), len(photographs.test)) == (1187, 297)
    for split in (photographs.calibration, photographs.test):
        image, label = split[len(split) - 1]
        assert (image.shape, image.dtype, label) == ((3, 32, 32), np.float32, None)
    assert not hasattr(photographs, "train")
    assert not hasattr(photographs, "validation")


def test_missing_photographs_are_an_error_that_says_where_they_were_looked_for_and_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_module("resnet20", "data").Photographs(str(tmp_path / "traffic-lights/traffic_lights_64x32.npz"))
    message = str(caught.value)
    assert f"the folder {tmp_path.resolve() / 'traffic-lights'} has no file traffic_lights_64x32.npz" in message
    assert "Set the environment variable ENGINEWRIGHT_DATA" in message


@pytest.mark.parametrize(
    ("environment", "folder"),
    [({}, "../shared/data"), ({"ENGINEWRIGHT_DATA": ""}, "../shared/data"), ({"ENGINEWRIGHT_DATA": "/d"}, "/d")],
)
def test_weights_and_images_are_looked_for_where_the_variable_says(environment: dict[str, str], folder: str) -> None:
    target = load_target("cpu", (ROOT / "targets",))
    recipe = load_recipe(ROOT / "recipes/resnet20.yaml", target=target, settings={}, environment=environment)
    assert recipe.model.weights == f"{folder}/resnet20-cifar10/resnet20-12fca82f.th"
    assert recipe.data is not None
    assert recipe.data.arguments == {"photographs": f"{folder}/traffic-lights/traffic_lights_64x32.npz"}
