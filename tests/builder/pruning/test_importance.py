"""Each measure of importance lets those channels go first that its paper says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.lone_stage import DATA, LoneStage, Samples, model_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from enginewright.checkpoint import load_checkpoint, save_checkpoint
from enginewright.edits import KeptChannels
from enginewright.errors import DataError
from enginewright.pruning.importance import MEASURES, add_gradients

IMAGE = (3, 6, 6)
pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Six channels between two convolutions; only the first is followed by batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.norm(self.a(image))))).mean((2, 3)))


def network() -> Any:
    torch.manual_seed(0)
    return Net().eval()


def parameters(importance: str, **more: Any) -> dict[str, Any]:
    return {"model": model_of(IMAGE), "data": DATA, "importance": importance, "samples": 10, **more}


def pruned(lone: LoneStage, made: nn.Module, folder: Path, importance: str, *, macs: float) -> Mapping[str, Any]:
    """The outputs that each module keeps; None where it keeps all."""
    lone.module("model", Net=lambda: made)
    save_checkpoint(folder / "start", made.state_dict(), ())
    settings = parameters(importance, macs=macs, round_to=1, keep=["head", "b"])
    ran = lone.run("prune", settings, checkpoint=folder / "start")
    (edit,) = load_checkpoint(ran.output("checkpoint"))[1]
    assert isinstance(edit, KeptChannels)
    return {path: kept.outputs for path, kept in edit.modules.items()}


@pytest.mark.parametrize("importance", ["taylor", "hessian", "magnitude", "lamp"])
def test_channels_that_nothing_reads_go_first(importance: str, lone: LoneStage, tmp_path: Path) -> None:
    made = network()
    with torch.no_grad():
        made.b.weight[:, [1, 4]] *= 1e-3
        made.a.weight[[1, 4]] *= 0.5
        made.norm.weight[[1, 4]] *= 1e-3
    lone.data(train=Samples(10, IMAGE))
    assert pruned(lone, made, tmp_path, importance, macs=0.33)["a"] == (0, 2, 3, 5)


def test_the_scale_of_batch_normalization_alone_decides_under_batch_norm(lone: LoneStage, tmp_path: Path) -> None:
    made = network()
    with torch.no_grad():
        made.norm.weight.copy_(torch.tensor([1.0, 0.2, 0.9, -0.8, 0.1, 1.2]))
        made.a.weight[[1, 4]] *= 100
    assert pruned(lone, made, tmp_path, "batch_norm", macs=0.33)["a"] == (0, 2, 3, 5)


def test_filters_amid_the_others_go_first_under_fpgm_however_large_they_are(lone: LoneStage, tmp_path: Path) -> None:
    """Three filters are nearly the same and large; the other three stand alone."""
    made = network()
    with torch.no_grad():
        for weight in (made.a.weight, made.b.weight.transpose(0, 1)):
            weight.copy_(torch.rand_like(weight))
            weight[[1, 2, 4]] = weight[1] + 0.01 * torch.rand_like(weight[[1, 2, 4]])
    assert set(pruned(lone, made, tmp_path, "fpgm", macs=0.33)["a"]) >= {0, 3, 5}


def test_the_hessian_is_the_mean_square_of_the_gradients_of_single_samples(lone: LoneStage) -> None:
    """Torch-Pruning's own accumulation keeps the last sample only."""
    made = network()
    samples = Samples(10, IMAGE)
    lone.data(train=samples)
    add_gradients(made, lone.step(parameters("hessian")))
    expected = torch.zeros_like(made.a.weight)
    twin = network()
    for index in range(10):
        twin.zero_grad()
        image, label = samples[index]
        cross_entropy(twin(torch.from_numpy(image)[None]), torch.tensor([label])).backward()
        expected += twin.a.weight.grad**2 / 10
    torch.testing.assert_close(made.a.weight.grad, expected)


def test_taylor_sums_the_gradients(lone: LoneStage) -> None:
    made, twin = network(), network()
    samples = Samples(50, IMAGE)
    lone.data(train=samples)
    add_gradients(made, lone.step(parameters("taylor", samples=50)))
    images = torch.from_numpy(np.stack([samples[index][0] for index in range(50)]))
    cross_entropy(twin(images), torch.arange(50) % 4, reduction="sum").backward()
    torch.testing.assert_close(made.a.weight.grad, twin.a.weight.grad)


@pytest.mark.parametrize("importance", [name for name, measure in MEASURES.items() if not measure.gradients])
def test_measures_of_weights_read_no_data(importance: str, lone: LoneStage, tmp_path: Path) -> None:
    lone.module("data", Made=lambda: pytest.fail("the data was asked for"))
    made = network()
    nn.init.uniform_(made.norm.weight)
    assert pruned(lone, made, tmp_path, importance, macs=0.33)


def test_a_network_without_batch_normalization_is_refused_under_batch_norm(lone: LoneStage, tmp_path: Path) -> None:
    made = network()
    made.norm = nn.Identity()
    with pytest.raises(
        DataError, match=r"batch normalization with a scale, and there is none at 'a': nothing"
    ) as caught:
        pruned(lone, made, tmp_path, "batch_norm", macs=0.33)
    assert "magnitude" in caught.value.hint


def test_layers_that_the_measure_does_not_see_keep_their_channels_and_are_named(
    lone: LoneStage, tmp_path: Path
) -> None:
    made = network()
    nn.init.uniform_(made.norm.weight)
    lone.module("model", Net=lambda: made)
    save_checkpoint(tmp_path / "start", made.state_dict(), ())
    settings = parameters("batch_norm", macs=0.33, round_to=1, keep=["head"])
    ran = lone.run("prune", settings, checkpoint=tmp_path / "start")
    (warning,) = ran.warnings()
    assert warning.endswith("there is none at 'b': they keep their channels")
