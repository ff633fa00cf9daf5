"""`enginewright init`: the project that it writes is valid, complete and trained."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from enginewright.compression import Prune, Quantize, Recover
from enginewright.errors import UsageError
from enginewright.project import find_project
from enginewright.recipe import Recipe, load_recipe
from enginewright.starter import STARTER_FILES, write_starter
from enginewright.target import catalogue, load_target

SPLITS = ("train", "validation", "calibration", "test")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_starter(tmp_path / "shapes")
    return tmp_path / "shapes"


@pytest.fixture
def code(written, monkeypatch):
    """Imports a module of the starter recipe."""
    monkeypatch.syspath_prepend(str(written / "recipes/starter"))
    for name in ("data", "model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in ("data", "model"):
        sys.modules.pop(name, None)


def loaded(root: Path, **settings: float) -> Recipe:
    project = find_project(root, environment={})
    target = load_target("cpu", catalogue(project))
    return load_recipe(project.recipe_path("starter"), target=target, settings=settings, environment={})


def test_init_says_which_files_it_wrote_and_makes_the_folder(tmp_path):
    files = write_starter(tmp_path / "a/b")
    assert [path.relative_to(tmp_path / "a/b").as_posix() for path in files] == list(STARTER_FILES)
    assert sorted(path for path in (tmp_path / "a/b").rglob("*") if path.is_file()) == sorted(files)


def test_init_overwrites_nothing_and_lists_what_is_in_the_way(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/starter.yaml").write_text("mine")
    (tmp_path / "Makefile").symlink_to("nowhere")
    with pytest.raises(UsageError) as caught:
        write_starter(tmp_path)
    assert (
        caught.value.message == f"{tmp_path} has Makefile and recipes/starter.yaml already, and nothing is overwritten"
    )
    assert (tmp_path / "recipes/starter.yaml").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "recipes"]


def test_init_into_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        write_starter(tmp_path / "file")


def test_the_starter_recipe_is_valid_and_shows_every_step(written):
    recipe = loaded(written)
    assert [type(step) for step in recipe.compress] == [Prune, Recover, Quantize]
    assert recipe.data.arguments == {"noise": 0.15}
    assert loaded(written, noise=0.3).data.arguments == {"noise": 0.3}
    assert find_project(written).locate(recipe.path, recipe.model.weights).is_file()


def test_the_splits_follow_the_protocol_and_share_no_image(code):
    data = code("data").Shapes()
    digests = set()
    for split in (getattr(data, name) for name in SPLITS):
        image, label = split[0]
        assert (image.dtype, image.shape, type(label)) == (np.float32, (1, 32, 32), int)
        again, _ = split[0]
        assert np.array_equal(image, again)
        digests.update(hashlib.sha256(split[index][0].tobytes()).digest() for index in range(len(split)))
        with pytest.raises(IndexError):
            split[len(split)]
    assert len(digests) == sum(len(getattr(data, name)) for name in SPLITS)


def test_the_weights_that_come_with_it_fit_the_network_and_are_well_above_ninety_percent(written, code):
    torch = importlib.import_module("torch")
    network, data = code("model").ShapeNet(classes=4), code("data").Shapes()
    weights = load_file(written / "recipes/starter/starter.safetensors")
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    images, labels = zip(*(data.test[index] for index in range(len(data.test))), strict=True)
    with torch.no_grad():
        answers = network.eval()(torch.from_numpy(np.stack(images))).argmax(1).numpy()
    accuracy = (answers == np.array(labels)).mean()
    assert 0.94 < accuracy < 1.0  # not so easy that compression costs nothing


def test_the_training_command_trains_and_writes_weights_that_fit(written):
    weights = written / "recipes/starter/starter.safetensors"
    before = load_shapes(weights)
    weights.unlink()
    one_epoch = "import sys; sys.path.insert(0, '.'); import train; train.EPOCHS = 1; train.main()"
    ran = subprocess.run(
        [sys.executable, "-c", one_epoch], cwd=weights.parent, check=True, capture_output=True, text=True
    )
    assert "epoch 1 of 1: loss" in ran.stdout
    assert load_shapes(weights) == before


def load_shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in load_file(weights).items()}


def test_the_makefile_lists_its_targets(written):
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    shown = subprocess.run(["make", "help"], cwd=written, check=True, capture_output=True, text=True, env=own).stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["help", "build", "plan", "why", "train"]
