"""What users get wrong: every message says where, what and the fix, with exit code 2, and nothing that was finished is
lost.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.small_disk import mount_small_disk
from tests.tiny_project import TinyProject

Edit = Callable[[TinyProject], None]


def in_recipe(old: str, new: str) -> Edit:
    return lambda project: project.edit("tiny.yaml", old, new)


def in_data(old: str, new: str) -> Edit:
    return lambda project: project.edit("tiny/data.py", old, new)


def nan_in_weights(project: TinyProject) -> None:
    path = project.root / "recipes" / "tiny" / "tiny.safetensors"
    tensors = load_file(path)
    tensors["head.bias"][0] = np.nan
    save_file(tensors, path)


def truncated_weights(project: TinyProject) -> None:
    path = project.root / "recipes" / "tiny" / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def no_weights(project: TinyProject) -> None:
    (project.root / "recipes" / "tiny" / "tiny.safetensors").unlink()


def pickled_code_as_weights(project: TinyProject) -> None:
    import torch

    torch.save({"x": subprocess.Popen}, project.root / "recipes" / "tiny" / "tiny.pt")
    project.edit("tiny.yaml", "tiny.safetensors", "tiny.pt")


NAN_IN_CALIBRATION = in_data(
    "        return image.astype(np.float32), label",
    "        return (image * np.nan if self.place == 2 else image).astype(np.float32), label",
)

WRONG: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "unknown key": (
        in_recipe("importance:", "importanse:"),
        ("recipes/tiny.yaml:16", "importanse", "Did you mean 'importance'?"),
    ),
    "out of range": (
        in_recipe("macs: {{ macs | default(0.4) }}", "macs: 1.4"),
        ("must be between 0.05 and 0.95, got 1.4",),
    ),
    "wrong type": (in_recipe("epochs: 1", "epochs: some"), ("recipes/tiny.yaml:17", "epochs")),
    "missing weights": (no_weights, ("there is no file", "tiny.safetensors", "fix:")),
    "truncated weights": (truncated_weights, ("cannot be read as weights", "is the file complete")),
    "NaN in weights": (nan_in_weights, ("the tensor 'head.bias' holds NaN",)),
    "weights that carry code": (pickled_code_as_weights, ("holds more than weights", "state_dict")),
    "weights of another network": (
        in_recipe("default(16)", "default(8)"),
        ("the weights do not fit the network", "the shapes differ"),
    ),
    "no such factory": (in_recipe("model:TinyNet", "model:TinyNett"), ("has no 'TinyNett'", "TinyNet")),
    "no such module": (in_recipe("model:TinyNet", "modell:TinyNet"), ("importing modell.py", "ModuleNotFoundError")),
    "a factory that raises": (
        in_data("        for name in SIZES:", "        raise OSError('no camera here')\n        for name in SIZES:"),
        ("calling data:Bars failed with OSError: no camera here", "data.py", "Traceback of the recipe's code"),
    ),
    "a sample that raises": (
        in_data("        label = index % 4", "        label = index % 4 if index < 3 else int('four')"),
        ("reading the samples", "ValueError: invalid literal"),
    ),
    "wrong sample shape": (
        in_data("image.astype(np.float32), label", "image.astype(np.float32)[:, :8], label"),
        ("has the shape [3, 8, 16], expected [3, 16, 16]",),
    ),
    "labels out of range": (
        in_data("image.astype(np.float32), label", "image.astype(np.float32), label + 1"),
        ("labels run from", "4 classes"),
    ),
    "NaN in calibration data": (NAN_IN_CALIBRATION, ("the split 'calibration'", "holds NaN or infinity")),
    "too few calibration samples": (in_recipe("samples: 32", "samples: 65"), ("has 64 samples", "asks for 65")),
    "a split that is missing": (
        in_data("for name in SIZES:", "for name in ('train', 'calibration', 'test'):"),
        ("no split 'validation'",),
    ),
    "a module to keep that is not there": (in_recipe("keep: [head]", "keep: [hed]"), ("prune.keep names 'hed'",)),
    "a learning rate that diverges": (
        in_recipe("learning_rate: 0.002", "learning_rate: 100000000000.0"),
        ("the loss became", "step 'recover'", "lower the step's learning_rate"),
    ),
    "an output that is not there": (
        in_recipe("outputs: [scores]", "outputs: [scores, boxes]"),
        ("gives 1 outputs, the recipe names 2",),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_answered_with_the_place_and_the_fix(name: str, built: TinyProject) -> None:
    edit, wanted = WRONG[name]
    edit(built)
    before = (built.root / "dist" / "tiny-cpu.ewb").read_bytes()
    finished = built.build()
    assert finished.code == 2, finished.err
    assert finished.out == ""
    for text in wanted:
        assert text in finished.err
    assert "bug of ours" not in finished.err
    assert (built.root / "dist" / "tiny-cpu.ewb").read_bytes() == before


def test_a_missed_budget_ends_with_1_and_still_delivers(built: TinyProject) -> None:
    built.edit("tiny.yaml", "size_mib: 2.0", "size_mib: 0.001")
    finished = built.build()
    assert finished.code == 1, finished.err
    assert finished.json["verdict"] == "FAIL"
    assert Path(finished.json["bundle"]).is_file()


def test_an_unknown_recipe_and_target_name_the_nearest(built: TinyProject) -> None:
    assert "Did you mean 'tiny'?" in built.run("build", "tinny", "--target", "cpu").err
    finished = built.run("build", "tiny", "--target", "cpuu")
    assert finished.code == 2
    assert "Did you mean 'cpu'?" in finished.err


def test_outside_a_project_it_says_how_to_make_one(tmp_path: Path) -> None:
    finished = TinyProject(tmp_path).build()
    assert finished.code == 2
    assert "enginewright init" in finished.err


def test_a_store_that_cannot_be_written_says_so(tiny: TinyProject) -> None:
    finished = tiny.build(ENGINEWRIGHT_STORE="/sys/enginewright")
    assert finished.code == 2, finished.err
    assert "the store /sys/enginewright cannot be written" in finished.err
    assert "ENGINEWRIGHT_STORE" in finished.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mount_small_disk(tmp_path / "small", size="100k") as folder:
        yield folder


def test_a_full_disk_says_so_and_the_next_build_goes_on(tiny: TinyProject, small_disk: Path) -> None:
    finished = tiny.build(ENGINEWRIGHT_STORE=str(small_disk / "store"))
    assert finished.code == 2, finished.err
    assert "no space left on the disk" in finished.err
    assert "Traceback" not in finished.err
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    planned = tiny.run("plan", "tiny", "--target", "cpu", "--json", ENGINEWRIGHT_STORE=str(small_disk / "store")).json
    assert planned["steps"][0]["status"] == "reused"


@pytest.fixture
def read_only_store(built: TinyProject) -> Iterator[TinyProject]:
    """A finished build whose store cannot be written, by root either, where this user may mount."""
    store = str(built.root / ".enginewright")
    if subprocess.run(["mount", "--bind", store, store], capture_output=True, check=False).returncode != 0:
        pytest.skip("making a folder read-only for root needs the right to mount")
    subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
    yield built
    subprocess.run(["umount", "-l", store], check=True)


def test_a_read_only_store_serves_a_build_that_has_nothing_to_do(read_only_store: TinyProject) -> None:
    assert read_only_store.build().code == 0
    read_only_store.edit("tiny.yaml", "metric: top1", "metric: top1 # another text")
    finished = read_only_store.build()
    assert finished.code == 2
    assert "cannot be written: Read-only file system" in finished.err
