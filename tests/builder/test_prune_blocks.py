"""Blocks leave by what they are worth and what they cost, both measured; here the times are set by the tests, but for
one that takes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.lone_stage import DATA, LoneStage, Ran, Samples, model_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import KeptChannels, RemovedBlocks
from enginewright.errors import DataError, StepFailed
from enginewright.stages import prune_blocks
from enginewright_runtime.host import fingerprint, fingerprint_id

IMAGE = (3, 8, 8)
pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    def __init__(self, width: int, *, outputs: int | None = None) -> None:
        super().__init__()
        outputs = outputs or width
        self.conv1, self.norm1 = nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if outputs == width else nn.Conv2d(width, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(features)))))
        return torch.relu(residual + self.shortcut(features))


class Net(nn.Module):
    """Blocks a, b and c can go; `wider` cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b, self.wider, self.c = Block(16), Block(16), Block(16, outputs=48), Block(48)
        self.head = nn.Linear(48, 4)

    def forward(self, image: Tensor) -> Tensor:
        features = self.c(self.wider(self.b(self.a(self.stem(image)))))
        return self.head(features.mean((2, 3)))


class Remover:
    """Runs the stage on networks of these tests; `saves` sets the microseconds that each block takes, of 1000 in all."""

    def __init__(self, lone: LoneStage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lone, self.folder, self.patch = lone, folder, monkeypatch
        self.host = fingerprint_id(fingerprint())

    def start(self, network: nn.Module, factory: Callable[[], nn.Module] = Net) -> Path:
        """The labels of the data are the network's own answers."""
        with torch.no_grad():
            answers = [int(network(torch.from_numpy(Samples(40, IMAGE)[i][0])[None]).argmax()) for i in range(40)]
        self.lone.data(train=Samples(40, IMAGE, answers.__getitem__))
        self.lone.module("model", Net=factory)
        save_checkpoint(self.folder / "start", network.state_dict(), ())
        return self.folder / "start"

    def saves(self, **microseconds: int) -> None:
        """The fake engine of a network is the list of its blocks."""

        def compiled(clock: Any) -> tuple[bytes, Any]:
            there = [name for name in microseconds if not isinstance(clock.network.get_submodule(name), nn.Identity)]
            return json.dumps(there).encode(), {}

        def timed(engines: Mapping[str, tuple[bytes, Any]], *_: Any, rounds: int, **__: Any) -> dict[str, list[int]]:
            return {
                label: [1000 * self._time(engine, microseconds) + turn % 3 for turn in range(rounds)]
                for label, (engine, _) in engines.items()
            }

        self.patch.setattr(prune_blocks._Clock, "_compiled", compiled)
        self.patch.setattr(prune_blocks, "time_side_by_side", timed)

    @staticmethod
    def _time(engine: bytes, microseconds: Mapping[str, int]) -> int:
        return 1000 - sum(took for name, took in microseconds.items() if name not in json.loads(engine))

    def run(self, checkpoint: Path, *, keep: Sequence[str] = (), **more: Any) -> Ran:
        parameters = {"model": model_of(IMAGE), "data": DATA, "host": self.host, "samples": 24, "keep": list(keep)}
        parameters |= {"backend": "onnxruntime", "settings": {"threads": 1}, "blocks": None, "latency": None, **more}
        return self.lone.run("prune_blocks", parameters, checkpoint=checkpoint)

    def rebuilt(self, checkpoint: Path) -> nn.Module:
        return make_network(model_of(IMAGE), self.folder, *load_checkpoint(checkpoint))


@pytest.fixture
def remover(lone: LoneStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remover:
    return Remover(lone, tmp_path, monkeypatch)


def network(*, worthless: str = "") -> Any:
    """Gives every class to some samples, so surely that any change costs something but that of a worthless block."""
    torch.manual_seed(3)
    made = Net().train()
    with torch.no_grad():
        for _ in range(4):
            made(torch.randn(16, *IMAGE))
        if worthless:
            block: Any = made.get_submodule(worthless)
            block.norm2.weight.zero_()
            block.norm2.bias.zero_()
        made.eval()
        made.head.bias -= made(torch.randn(64, *IMAGE)).mean(0)
        made.head.weight *= 1000
        made.head.bias *= 1000
    return made


def table(ran: Ran) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(ran.output("blocks").read_bytes())
    return content


def test_the_block_goes_that_costs_the_least_loss_for_the_time_it_saves(remover: Remover) -> None:
    made = network(worthless="b")
    remover.saves(a=300, b=100, c=200)
    ran = remover.run(remover.start(made), blocks=1)
    state, architecture = load_checkpoint(ran.output("checkpoint"))
    assert architecture == (RemovedBlocks(("b",)),)
    assert not any(name.startswith("b.") for name in state)
    assert ran.outcome.summary["removed"] == ["b"]
    assert ran.outcome.summary["latency_before_ns"] == pytest.approx(1e6, abs=5)
    assert ran.outcome.summary["latency_after_ns"] == pytest.approx(9e5, abs=5)
    assert ran.outcome.summary["loss_after"] == pytest.approx(ran.outcome.summary["loss_before"])


def test_of_two_blocks_worth_the_same_the_slower_goes(remover: Remover) -> None:
    made = network(worthless="a")
    made.b.load_state_dict(made.a.state_dict())
    remover.saves(a=100, b=300, c=200)
    assert remover.run(remover.start(made), blocks=1).outcome.summary["removed"] == ["b"]


def test_a_block_is_judged_again_once_another_is_gone(remover: Remover) -> None:
    """One of two blocks is enough, so both look cheap; the second to go is then another one."""

    class Spare(nn.Module):
        """`a` lets only what is positive through, and so does `b`; `c` costs a little."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Gated(), Gated()
            self.c, self.head = Gated(), nn.Linear(3, 4)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.c(self.b(self.a(image))).mean((2, 3)))

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 3, 1))
            self.floor = nn.Parameter(torch.tensor([0.0]))

        def forward(self, features: Tensor) -> Tensor:
            return torch.maximum(features, self.floor) + self.body(features)

    made = Spare().eval()
    with torch.no_grad():
        for block in (made.a, made.b, made.c):
            block.body[0].weight.zero_()
            block.body[0].bias.zero_()
        made.c.body[0].bias.fill_(0.05)
        made.c.floor.fill_(-100)
        made.head.weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(20)
    remover.saves(a=400, b=300, c=100)
    ran = remover.run(remover.start(made, Spare), blocks=2)
    assert ran.outcome.summary["removed"] == ["a", "c"]
    rises = {row["name"]: row["loss_rise"] for row in table(ran)["blocks"]}
    assert rises["a"] == rises["b"] == 0 < rises["c"]


def test_blocks_go_until_the_share_of_the_latency_is_gone(remover: Remover) -> None:
    remover.saves(a=100, b=150, c=120)
    ran = remover.run(remover.start(network()), latency=0.2)
    assert len(ran.outcome.summary["removed"]) == 2
    assert ran.outcome.summary["latency_after_ns"] <= 0.8 * ran.outcome.summary["latency_before_ns"]


def test_a_latency_that_cannot_be_reached_says_what_was(remover: Remover) -> None:
    remover.saves(a=100, b=150, c=120)
    with pytest.raises(DataError, match=r"cannot take 50% off the latency: all 3 that save time take 37\.0%") as caught:
        remover.run(remover.start(network()), latency=0.5)
    assert "prune_blocks.latency" in caught.value.hint


def test_a_block_that_saves_nothing_measurable_stays_and_that_is_said(remover: Remover) -> None:
    made = network(worthless="b")
    remover.saves(a=100, b=0, c=200)
    ran = remover.run(remover.start(made), blocks=3)
    assert sorted(ran.outcome.summary["removed"]) == ["a", "c"]
    assert "2 of 3 blocks were removed: no other saves measurable time" in ran.warnings()
    assert {"event": "note", "text": "block 'b' stays: nothing measurable is saved without it"} in ran.events


def test_where_nothing_saves_time_the_network_goes_on_as_it_is(remover: Remover) -> None:
    remover.saves(a=0, b=0, c=0)
    start = remover.start(network())
    ran = remover.run(start, blocks=1)
    assert ran.output("checkpoint").read_bytes() == start.read_bytes()
    assert ran.warnings()


def test_the_table_has_a_row_for_each_candidate_in_the_order_of_the_network(remover: Remover) -> None:
    made = network(worthless="c")
    remover.saves(a=100, b=150, c=120)
    content = table(remover.run(remover.start(made), blocks=1))
    assert content["format"] == 1
    assert content["samples"] == 24
    rows = {row["name"]: row for row in content["blocks"]}
    assert list(rows) == ["a", "b", "c"]
    assert [row["order"] for row in content["blocks"]] == [None, None, 1]
    assert [row["removed"] for row in content["blocks"]] == [False, False, True]
    assert rows["b"]["saved_ns"] == pytest.approx([150_000] * 3, abs=5)
    assert rows["a"]["macs"] == 2 * 16 * 16 * 9 * 64
    assert rows["a"]["parameters"] == sum(value.numel() for value in made.a.parameters())
    assert rows["c"]["loss_rise"] == pytest.approx(content["loss_after"] - content["loss_before"])


def test_the_loss_is_the_mean_cross_entropy_of_the_samples(remover: Remover) -> None:
    remover.saves(a=100, b=150, c=120)
    made = network()
    made.head.weight.data /= 1000  # not so sure of its answers
    content = table(remover.run(remover.start(made), blocks=1, samples=40))
    images = torch.from_numpy(np.stack([Samples(40, IMAGE)[index][0] for index in range(40)]))
    with torch.no_grad():
        scores = made(images)
        expected = cross_entropy(scores, scores.argmax(1))
    assert content["loss_before"] == pytest.approx(float(expected), rel=1e-4)


def test_blocks_to_keep_stay(remover: Remover) -> None:
    remover.saves(a=100, b=150, c=120)
    ran = remover.run(remover.start(network(worthless="b")), keep=["b"], blocks=2)
    assert sorted(ran.outcome.summary["removed"]) == ["a", "c"]
    assert [row["name"] for row in table(ran)["blocks"]] == ["a", "c"]


@pytest.mark.parametrize(
    ("keep", "blocks", "words"),
    [
        ((), 4, r"is to remove 4, and of the network's blocks 3 may go: 'a', 'b' and 'c'"),
        (("b",), 3, r"is to remove 3, and of the network's blocks 2 may go: 'a' and 'c'"),
        (("a", "b", "c"), None, r"is to remove 1, and of the network's blocks 0 may go: none"),
    ],
)
def test_more_blocks_than_there_are_is_refused(
    keep: Sequence[str], blocks: int | None, words: str, remover: Remover
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        remover.run(remover.start(network()), keep=keep, blocks=blocks, latency=None if blocks else 0.1)
    assert "prune_blocks.keep" in caught.value.hint


def test_a_network_that_needs_its_block_is_told_which(remover: Remover) -> None:
    class Needy(Net):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * self.b.conv1.weight.abs().max()

    remover.saves(a=100, b=150, c=120)
    made = Needy().eval()
    with pytest.raises(DataError, match=r"the network does not do without block 'b': .*conv1") as caught:
        remover.run(remover.start(made, Needy), blocks=1)
    assert caught.value.hint == "add 'b' to prune_blocks.keep"


def test_a_block_without_which_torch_cannot_export_is_named(remover: Remover, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(network: Any, _: Any, path: Path) -> None:
        if isinstance(network.b, nn.Identity):
            raise DataError("torch cannot export the network: KeyError")
        path.write_bytes(b"exported")

    monkeypatch.setattr(prune_blocks, "export_network", export)
    monkeypatch.setattr(prune_blocks, "backend", lambda name: SimpleNamespace(compile=lambda model, settings: model))
    with pytest.raises(DataError, match="does not do without block 'b': torch cannot export the network") as caught:
        remover.run(remover.start(network()), blocks=1)
    assert caught.value.hint == "add 'b' to prune_blocks.keep"


def test_without_class_labels_the_step_is_refused(remover: Remover) -> None:
    remover.saves(a=100, b=150, c=120)
    start = remover.start(network())
    remover.lone.data(train=Samples(24, IMAGE, label=None))
    with pytest.raises(DataError, match="prune_blocks needs integer class labels"):
        remover.run(start, blocks=1)


def test_another_host_than_the_planned_one_is_refused(remover: Remover) -> None:
    with pytest.raises(StepFailed, match="the build was planned on another host"):
        remover.run(remover.start(network()), blocks=1, host="0" * 64)


def test_measured_times_remove_a_block_and_channels_are_pruned_before_and_after(remover: Remover) -> None:
    """prune, prune_blocks, prune: each edit counts from what the one before left."""
    made = network()
    channels = {"model": model_of(IMAGE), "data": DATA, "importance": "magnitude", "macs": 0.25, "round_to": 4}
    channels |= {"keep": ["head"], "samples": 8}
    first = remover.lone.run("prune", channels, checkpoint=remover.start(made)).output("checkpoint")
    ran = remover.run(first, blocks=1, keep=["a", "b"])
    assert ran.outcome.summary["removed"] == ["c"]
    second = remover.lone.run("prune", channels, checkpoint=ran.output("checkpoint")).output("checkpoint")
    _, architecture = load_checkpoint(second)
    assert [type(edit) for edit in architecture] == [KeptChannels, RemovedBlocks, KeptChannels]
    rebuilt = remover.rebuilt(second)
    assert isinstance(rebuilt.get_submodule("c"), nn.Identity)
    assert rebuilt(torch.zeros(2, *IMAGE)).shape == (2, 4)
    assert ran.outcome.summary["latency_after_ns"] < ran.outcome.summary["latency_before_ns"]
    assert ran.outcome.summary["macs"] < ran.outcome.summary["macs_before"]
