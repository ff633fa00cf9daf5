"""Training with int8 simulated ends with weights and ranges that are better in int8 than those of training in float."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builder.exporting import exported, quantized, run_in_float
from tests.builder.lone_stage import Ran, model_of
from tests.builder.recoverer import SHAPE, Coloured, Recoverer, accuracy, curve, same, seeded, stacked, weights
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, make_network
from enginewright.edits import FoldedNorms, Sparse
from enginewright.errors import DataError
from enginewright.graph.learned_ranges import module_ranges_from_json
from enginewright.signature import Signature

DIALECT = "onnxruntime-x86"
SIGNATURE = Signature.from_json(model_of(SHAPE))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(image)))
        return self.head(torch.relu(self.norm2(self.conv2(inner))).mean((2, 3)))


def coarse(recoverer: Recoverer) -> nn.Module:
    """A network that knows its classes in float and nothing in int8: a channel is dead, and the weights that read it are
    so large that beside them all others of a channel round to zero.
    """
    network = Normed()
    network.load_state_dict(weights(recoverer.run(seeded(Normed), epochs=8, learning_rate=0.02)))
    with torch.no_grad():
        network.norm1.weight[0] = network.norm1.bias[0] = 0
        largest = network.conv2.weight.abs().amax((1, 2, 3))
        network.conv2.weight[:, 0, 0, 0] = 150 * largest
    assert accuracy(network.eval(), Coloured(48, seed=1)) > 0.95
    return network


def in_int8(ran: Ran, folder: Path) -> float:
    """The accuracy of what was kept, through the builder's own quantizer with the ranges that were learned."""
    network = make_network(model_of(SHAPE), folder, *load_checkpoint(ran.output("checkpoint")))
    modules = module_ranges_from_json(json.loads(ran.output("ranges").read_text()))
    result = quantized(exported(network, SIGNATURE, folder), stacked(Coloured(64))[0].numpy(), modules, DIALECT)
    images, labels = stacked(Coloured(100, seed=2))
    return float((run_in_float(result, images.numpy()).argmax(-1) == labels).mean())


def test_it_recovers_in_int8_what_training_in_float_does_not(recoverer: Recoverer, tmp_path: Path) -> None:
    recoverer.factory = Normed
    network = coarse(recoverer)
    how = {"epochs": 6, "learning_rate": 0.02}
    floating = recoverer.run(network, **how)
    ours = recoverer.run(network, **how, quantized=True, dialect=DIALECT)
    assert in_int8(floating, tmp_path) < 0.5
    assert in_int8(ours, tmp_path) > 0.9
    assert ours.outcome.summary["before"] < 0.5  # the validation is of the network in int8, from the start
    assert ours.outcome.summary["best"] > 0.9


def test_what_is_kept_are_plain_weights_with_norms_folded_and_the_range_of_each_input(recoverer: Recoverer) -> None:
    recoverer.factory = Normed
    ran = recoverer.run(seeded(Normed), epochs=2, learning_rate=0.02, quantized=True, dialect=DIALECT)
    state, architecture = load_checkpoint(ran.output("checkpoint"))
    assert architecture == (FoldedNorms({"conv1": "norm1", "conv2": "norm2"}),)
    assert set(state) == {f"{layer}.{part}" for layer in ("conv1", "conv2", "head") for part in ("weight", "bias")}
    content = json.loads(ran.output("ranges").read_text())
    assert content["format"] == 1
    assert set(content["modules"]) == {"conv1", "conv2", "head"}
    assert content["modules"]["conv1"]["input"][0] < 0 < content["modules"]["conv1"]["input"][1]
    assert content["modules"]["conv2"]["input"][0] == 0.0
    # Not on the grid of the integers: the quantizer of the graph rounds them.
    row = state["conv1.weight"][0]
    steps = (row / (row.abs().max() / 64)).flatten()
    assert (steps - steps.round()).abs().max() > 0.05


def test_training_in_float_learns_no_ranges(recoverer: Recoverer) -> None:
    ran = recoverer.run(seeded())
    assert json.loads(ran.output("ranges").read_text()) == {"format": 1, "modules": {}}


def test_the_ranges_that_are_kept_are_those_of_the_best_epoch(recoverer: Recoverer) -> None:
    def learned(script: list[float]) -> Any:
        class Scripted:
            calls = 0

            def update(self, outputs: Any, labels: Any) -> None:
                return

            def compute(self) -> float:
                Scripted.calls += 1
                return script[Scripted.calls - 1]

        recoverer.lone.module("metric", Made=Scripted)
        recoverer.metric = {"factory": "metric:Made", "arguments": {}}
        ran = recoverer.run(seeded(), epochs=3, learning_rate=0.02, quantized=True, dialect=DIALECT)
        return json.loads(ran.output("ranges").read_text())

    start, first, last = learned([0.9, 0, 0, 0]), learned([0.1, 0.9, 0.5, 0.4]), learned([0.1, 0.2, 0.3, 0.4])
    assert start != first != last != start


def test_sparse_weights_keep_their_zeros_in_float_and_in_simulated_int8(recoverer: Recoverer) -> None:
    recoverer.factory = Normed
    recoverer.architecture = (Sparse(("conv2",)),)
    network = seeded(Normed)
    with torch.no_grad():
        network.conv2.weight[:, ::2] = 0
    for changed in ({}, {"quantized": True, "dialect": DIALECT}):
        kept = weights(recoverer.run(network, epochs=2, learning_rate=0.02, ema=0.5, **changed))["conv2.weight"]
        assert kept[:, ::2].abs().max() == 0
        assert kept[:, 1::2].abs().min() > 0
        assert not torch.equal(kept, network.conv2.weight)


def test_a_network_too_thin_for_the_dialect_is_refused(recoverer: Recoverer) -> None:
    with pytest.raises(DataError, match="no layer that would run in int8 for tensorrt"):
        recoverer.run(seeded(), quantized=True, dialect="tensorrt")


def test_it_learns_from_a_teacher_that_stays_in_float(recoverer: Recoverer) -> None:
    recoverer.factory = Normed
    distill = {"temperature": 2.0, "weight": 0.5, "features": ["norm2"], "feature_weight": 1.0}
    teacher = seeded(Normed, seed=2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    ran = recoverer.run(seeded(Normed), teacher, epochs=2, distill=distill, quantized=True, dialect=DIALECT)
    assert len(curve(ran)) == 3
    assert same(teacher.state_dict(), before)
