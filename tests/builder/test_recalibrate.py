"""Recalibration replaces the statistics of batch normalization by those of training samples, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.lone_stage import DATA, LoneStage, Ran, Samples, model_of
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, save_checkpoint
from enginewright.edits import Kept, KeptChannels
from enginewright.errors import DataError

IMAGE = (3, 6, 6)
pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.unused = nn.Dropout(0.5), nn.BatchNorm2d(8)
        self.last, self.last_norm = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> Tensor:
        features = self.drop(torch.relu(self.norm(self.conv(image))))
        return self.last_norm(self.last(features)).mean((2, 3))


def stale(network: Any) -> Any:
    """A network whose statistics have nothing to do with its data."""
    torch.manual_seed(0)
    for name, value in network.named_buffers():
        if value.is_floating_point():
            nn.init.uniform_(value, 3.0, 5.0)
        else:
            value.fill_(77)
        assert name.startswith(("norm", "unused", "last_norm"))
    return network.eval()


def recalibrated(lone: LoneStage, folder: Path, network: nn.Module, *, samples: int = 200) -> Ran:
    lone.module("model", Net=type(network))
    save_checkpoint(folder / "start", network.state_dict(), ())
    settings = {"model": model_of(IMAGE), "data": DATA, "samples": samples}
    return lone.run("recalibrate", settings, checkpoint=folder / "start")


def images(count: int) -> Tensor:
    return torch.from_numpy(np.stack([Samples(count, IMAGE)[index][0] for index in range(count)]))


def test_one_batch_gives_its_own_mean_and_variance_without_dropout(lone: LoneStage, tmp_path: Path) -> None:
    network = stale(Net())
    lone.data(train=Samples(40, IMAGE))
    ran = recalibrated(lone, tmp_path, network)
    state, _ = load_checkpoint(ran.output("checkpoint"))
    with torch.no_grad():
        before = network.conv(images(40))
        mean, variance = before.mean((0, 2, 3)), before.var((0, 2, 3))
        shaped = [value[:, None, None] for value in (mean, before.var((0, 2, 3), correction=0))]
        last = network.last(torch.relu((before - shaped[0]) / torch.sqrt(shaped[1] + 1e-5)))
    torch.testing.assert_close(state["norm.running_mean"], mean)
    torch.testing.assert_close(state["norm.running_var"], variance)
    torch.testing.assert_close(state["last_norm.running_mean"], last.mean((0, 2, 3)))
    assert ran.outcome.summary == {"batch_norms": 3, "samples": 40}


def test_many_batches_count_alike(lone: LoneStage, tmp_path: Path) -> None:
    """129 samples are three batches of 43, so that the mean over the batches is the mean over the samples."""
    network = stale(Net())
    lone.data(train=Samples(129, IMAGE))
    state, _ = load_checkpoint(recalibrated(lone, tmp_path, network).output("checkpoint"))
    assert int(state["norm.num_batches_tracked"]) == 3
    with torch.no_grad():
        torch.testing.assert_close(state["norm.running_mean"], network.conv(images(129)).mean((0, 2, 3)))


def test_nothing_else_changes(lone: LoneStage, tmp_path: Path) -> None:
    network = stale(Net())
    lone.data(train=Samples(100, IMAGE))
    lone.module("model", Net=Net)
    kept = (KeptChannels({"last": Kept(outputs=(0, 1, 2, 3))}),)
    save_checkpoint(tmp_path / "start", network.state_dict(), kept)
    settings = {"model": model_of(IMAGE), "data": DATA, "samples": 50}
    ran = lone.run("recalibrate", settings, checkpoint=tmp_path / "start")
    state, architecture = load_checkpoint(ran.output("checkpoint"))
    assert architecture == kept
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, state[name])}
    of_norms = {
        f"{norm}.{name}"
        for norm in ("norm", "last_norm")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert changed == of_norms
    assert ran.outcome.summary["samples"] == 50


def test_samples_are_read_as_they_are_needed(lone: LoneStage, tmp_path: Path) -> None:
    asked: list[int] = []

    class Watched(Samples):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            asked.append(len(indices))
            return [self[index] for index in indices]

    lone.data(train=Watched(1000, IMAGE, label=None))
    recalibrated(lone, tmp_path, stale(Net()), samples=641)
    assert sum(asked) == 641
    assert min(asked) >= 58
    assert max(asked) <= 64


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.mean((2, 3)))


def test_a_network_without_statistics_goes_on_as_it_is_with_a_warning(lone: LoneStage, tmp_path: Path) -> None:
    lone.module("data", Made=lambda: pytest.fail("the data was asked for"))
    ran = recalibrated(lone, tmp_path, Plain())
    assert ran.output("checkpoint").read_bytes() == (tmp_path / "start").read_bytes()
    assert "nothing to recalibrate" in ran.warnings()[0]


def test_a_single_sample_has_no_variance(lone: LoneStage, tmp_path: Path) -> None:
    lone.data(train=Samples(1, IMAGE))
    with pytest.raises(DataError, match="needs two training samples"):
        recalibrated(lone, tmp_path, stale(Net()))
