"""Fine-tuning keeps the best epoch, or the weights that it began with; its loss is the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from tests.builder.lone_stage import LoneStage, Samples, model_of
from tests.builder.recoverer import (
    SHAPE,
    Coloured,
    Net,
    Recoverer,
    accuracy,
    curve,
    same,
    seeded,
    stacked,
    weights,
)
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import Kept, KeptChannels
from enginewright.errors import DataError, UserCodeError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def recoverer(lone: LoneStage, tmp_path: Path) -> Recoverer:
    return Recoverer(lone, tmp_path)


def test_a_network_that_lost_its_head_learns_again_and_the_summary_says_how_well(recoverer: Recoverer) -> None:
    ran = recoverer.run(seeded(), epochs=6, learning_rate=0.05)
    network = make_network(model_of(SHAPE), recoverer.folder, *load_checkpoint(ran.output("checkpoint")))
    reached = accuracy(network, Coloured(48, seed=1))
    assert reached > 0.9
    assert ran.outcome.summary["best"] == round(reached, 4)
    assert ran.outcome.summary["before"] == round(accuracy(seeded(), Coloured(48, seed=1)), 4)
    assert [point["epoch"] for point in curve(ran)] == list(range(7))
    assert max(point["validation"] for point in curve(ran)) == reached
    assert not ran.warnings()


def test_in_bfloat16_the_weights_stay_float32_and_learn_as_well(recoverer: Recoverer) -> None:
    ran = recoverer.run(seeded(), epochs=6, learning_rate=0.05, precision="bfloat16")
    assert {value.dtype for value in weights(ran).values()} == {torch.float32}
    assert ran.outcome.summary["best"] > 0.9


class Scripted:
    """A metric that says what the script says, and keeps the student's weights as they were when it was asked."""

    script: list[float]
    kept: list[dict[str, Tensor]]
    networks: list[nn.Module]

    def update(self, outputs: Any, labels: Any) -> None:
        return

    def compute(self) -> float:
        self.kept.append({name: value.clone() for name, value in self.networks[0].state_dict().items()})
        return self.script[len(self.kept) - 1]


@pytest.mark.parametrize(
    ("script", "best"),
    [([0.1, 0.9, 0.2, 0.8], 1), ([0.1, 0.2, 0.3, 0.4], 3), ([0.1, 0.5, 0.5, 0.2], 1), ([0.5] * 4, 0)],
)
def test_the_weights_of_the_best_epoch_are_kept_and_the_first_of_equals(
    script: list[float], best: int, recoverer: Recoverer
) -> None:
    class Kept(Scripted):
        kept: list[dict[str, Tensor]] = []  # noqa: RUF012 (of this test alone)
        networks: list[nn.Module] = []  # noqa: RUF012

    Kept.script = script

    def factory() -> nn.Module:
        Kept.networks.append(Net())
        return Kept.networks[-1]

    recoverer.factory = factory
    recoverer.lone.module("metric", Made=Kept)
    recoverer.metric = {"factory": "metric:Made", "arguments": {}}
    ran = recoverer.run(seeded(), epochs=3)
    assert ran.outcome.summary["best_epoch"] == best
    assert same(weights(ran), Kept.kept[best])
    assert not same(Kept.kept[0], Kept.kept[1])


def test_where_no_epoch_is_better_the_starting_weights_stay_and_that_is_said(recoverer: Recoverer) -> None:
    """The labels are what the network says already: nothing can be better."""
    student = seeded()
    images = Coloured(48, seed=1)

    class Agreeing(Coloured):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, _ = super().__getitem__(index)
            return image, int(student(torch.from_numpy(image[None])).argmax())

    recoverer.lone.data(train=Coloured(64), validation=Agreeing(len(images), seed=1))
    ran = recoverer.run(student, epochs=2, learning_rate=0.1)
    assert ran.outcome.summary == {"before": 1.0, "best": 1.0, "best_epoch": 0, "epochs": 2}
    assert same(weights(ran), student.state_dict())
    (warning,) = ran.warnings()
    assert warning == "no epoch of 'lone' was better than the weights it began with (1.0000): those are kept"


def test_the_pruned_architecture_goes_on_with_the_weights(recoverer: Recoverer) -> None:
    cut = (KeptChannels({"conv": Kept(outputs=(0, 2, 5)), "head": Kept(inputs=(0, 2, 5))}),)
    network = seeded()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state |= {"conv.weight": state["conv.weight"][[0, 2, 5]], "conv.bias": state["conv.bias"][[0, 2, 5]]}
    state |= {"head.weight": state["head.weight"][:, [0, 2, 5]]}
    save_checkpoint(recoverer.folder / "pruned", state, cut)
    whole = recoverer.checkpoint(network, "whole")
    recoverer.checkpoint = lambda network, name: recoverer.folder / ("pruned" if name == "student" else whole.name)  # type: ignore[method-assign]
    ran = recoverer.run(network, epochs=3, learning_rate=0.05, distill={"temperature": 4.0, "weight": 0.5})
    state, architecture = load_checkpoint(ran.output("checkpoint"))
    assert architecture == cut
    assert state["conv.weight"].shape == (3, 3, 3, 3)
    assert ran.outcome.summary["best_epoch"] > 0


def forward(network: nn.Module, split: Any) -> tuple[Any, Any]:
    images, labels = stacked(split)
    with torch.no_grad():
        return network(images).double().numpy(), labels


@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 0.7), (1.0, 0.5), (2.5, 1.0), (3.0, 0.0), (None, None)])
def test_the_loss_is_cross_entropy_and_hintons_distillation_in_their_shares(
    temperature: float | None, weight: float | None, recoverer: Recoverer
) -> None:
    """One batch that holds the whole split, so the epoch's loss is that of the starting weights."""
    student, teacher = seeded(seed=1), seeded(seed=2)
    distill = None if weight is None else {"temperature": temperature, "weight": weight}
    ran = recoverer.run(student, teacher, batch_size=64, distill=distill)
    ours, labels = forward(student, Coloured(64))
    theirs, _ = forward(teacher, Coloured(64))
    expected = -log_softmax(ours, -1)[np.arange(64), labels].mean()
    if temperature is not None and weight is not None:
        wanted = softmax(theirs / temperature, -1)
        divergence = (wanted * (np.log(wanted) - log_softmax(ours / temperature, -1))).sum(-1).mean()
        expected = (1 - weight) * expected + weight * temperature**2 * divergence
    assert curve(ran)[1]["loss"] == pytest.approx(expected, rel=1e-5)


def test_distillation_alone_pulls_the_student_to_the_teacher_whatever_the_labels_say(recoverer: Recoverer) -> None:
    teacher = network_that_knows()
    recoverer.lone.data(train=Shuffled(64), validation=Coloured(48, seed=1))
    ran = recoverer.run(
        seeded(seed=5), teacher, epochs=15, learning_rate=0.05, distill={"temperature": 4.0, "weight": 1.0}
    )
    assert ran.outcome.summary["best"] > 0.8
    alone = recoverer.run(seeded(seed=8), teacher, epochs=15, learning_rate=0.05)
    assert alone.outcome.summary["best"] < 0.7


class Shuffled(Coloured):
    """Labels that have nothing to do with the images."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return super().__getitem__(index)[0], int(np.random.default_rng(index).integers(4))


def network_that_knows() -> nn.Module:
    network, (images, labels) = seeded(seed=3), stacked(Coloured(64))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(80):
        loss = nn.functional.cross_entropy(network(images), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert accuracy(network, Coloured(48, seed=1)) > 0.9
    return network


def test_the_teacher_stays_as_it_was(recoverer: Recoverer) -> None:
    networks: list[nn.Module] = []

    def factory() -> nn.Module:
        networks.append(Net())
        return networks[-1]

    recoverer.factory = factory
    teacher = seeded(seed=2)
    recoverer.run(seeded(seed=1), teacher, epochs=2, distill={"temperature": 4.0, "weight": 0.5})
    assert same(networks[1].state_dict(), teacher.state_dict())
    assert not networks[1].training


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_order(recoverer: Recoverer) -> None:
    def trained(seed: int) -> bytes:
        return recoverer.run(seeded(), epochs=2, learning_rate=0.05, seed=seed).output("checkpoint").read_bytes()

    assert trained(0) == trained(0) != trained(1)


def test_every_training_sample_is_seen_once_an_epoch_in_another_order(recoverer: Recoverer) -> None:
    seen: list[int] = []

    class Watched(Coloured):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            seen.append(index)
            return super().__getitem__(index)

    recoverer.lone.data(train=Watched(30), validation=Coloured(8))
    recoverer.run(seeded(), epochs=2, batch_size=8)
    first, second = seen[:30], seen[30:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second != sorted(second)


def test_progress_goes_up_to_its_total_and_shows_loss_and_accuracy(recoverer: Recoverer) -> None:
    ran = recoverer.run(seeded(), epochs=2, batch_size=16)
    told = [event for event in ran.events if event["event"] == "progress"]
    assert [event["done"] for event in told] == sorted(event["done"] for event in told)
    assert told[-1]["done"] == told[-1]["total"] == 2 * 4
    assert any(event["note"].startswith("epoch 2/2, loss ") for event in told)
    assert told[-1]["note"] == f"validation {curve(ran)[-1]['validation']:.4f}"


def test_the_last_batch_of_one_sample_is_left_out_for_batch_normalisation(recoverer: Recoverer) -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, image: Tensor) -> Tensor:
            return self.norm(super().forward(image))

    recoverer.factory = Normed
    recoverer.lone.data(train=Coloured(17), validation=Coloured(8))
    assert np.isfinite(curve(recoverer.run(seeded(Normed), batch_size=16))[1]["loss"])


class Volumes(nn.Module):
    """Convolutions in three dimensions have no layout `channels last`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)).mean((2, 3, 4)))


class Signals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)).mean(2))


@pytest.mark.parametrize(("factory", "shape"), [(Volumes, (3, 4, 4, 4)), (Signals, (3, 8))])
def test_convolutions_in_one_and_three_dimensions_train(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], recoverer: Recoverer
) -> None:
    recoverer.factory = factory
    recoverer.lone.data(train=Samples(16, shape), validation=Samples(8, shape))
    assert curve(recoverer.run(seeded(factory), shape=shape))[1]["loss"] > 0


def test_labels_of_every_pixel_train_with_a_metric_of_the_users(recoverer: Recoverer) -> None:
    class PerPixel:
        def __init__(self) -> None:
            self.shares: list[float] = []

        def update(self, outputs: Any, labels: Any) -> None:
            self.shares.append(float((outputs["scores"].argmax(1) == labels).mean()))

        def compute(self) -> float:
            return float(np.mean(self.shares))

    def factory() -> nn.Module:
        return nn.Conv2d(3, 4, 3, padding=1)

    recoverer.factory = factory
    recoverer.lone.module("metric", Made=PerPixel)
    recoverer.metric = {"factory": "metric:Made", "arguments": {}}
    split = Samples(16, SHAPE, label=lambda index: np.full(SHAPE[1:], index % 4))
    recoverer.lone.data(train=split, validation=split)
    student, teacher = seeded(factory, seed=1), seeded(factory, seed=2)
    ran = recoverer.run(student, teacher, batch_size=16, distill={"temperature": 2.0, "weight": 1.0})
    ours, theirs = forward(student, split)[0], forward(teacher, split)[0]
    wanted = softmax(theirs / 2, 1)
    divergence = (wanted * (np.log(wanted) - log_softmax(ours / 2, 1))).sum(1).mean()
    assert curve(ran)[1]["loss"] == pytest.approx(4 * divergence, rel=1e-5)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "training needs integer class labels in the train split"),
        (lambda index: 0.5, "training needs integer class labels"),
        (lambda index: [0, 1], "training needs integer class labels"),
        (lambda index: 4, "labels of the train split run from 4 to 4, but the network has 4 classes"),
        (lambda index: -1, "labels of the train split run from -1 to -1"),
    ],
)
def test_training_labels_that_are_no_classes_are_refused(label: Any, words: str, recoverer: Recoverer) -> None:
    recoverer.lone.data(train=Samples(16, SHAPE, label=label), validation=Coloured(8))
    with pytest.raises(DataError, match=words):
        recoverer.run(seeded())


def test_batches_of_one_sample_train_nothing_and_are_refused(recoverer: Recoverer) -> None:
    with pytest.raises(DataError, match="no batch of the split 'train' has two samples: there are 64, in batches of 1"):
        recoverer.run(seeded(), batch_size=1)


def test_a_loss_that_is_not_finite_stops_with_what_to_change(recoverer: Recoverer) -> None:
    with pytest.raises(DataError, match=r"the loss became (nan|inf) in epoch \d") as caught:
        recoverer.run(seeded(), epochs=5, learning_rate=1e30)
    assert "lower the step's learning_rate" in caught.value.hint


def test_a_forward_that_fails_is_shown_as_the_users(recoverer: Recoverer) -> None:
    class Broken(Net):
        def forward(self, image: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("not for training")
            return super().forward(image)

    recoverer.factory = Broken
    with pytest.raises(UserCodeError, match="running the network failed with RuntimeError: not for training"):
        recoverer.run(seeded(Broken))
