"""The moving average of the weights is what is validated and kept; training goes on with the weights themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.recoverer import Coloured, Net, Recoverer, curve, same, seeded, stacked, weights
from torch import nn

from enginewright.training.average import MovingAverage


def updated(network: nn.Module, average: MovingAverage, values: list[float]) -> None:
    for value in values:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)
        average.update()


def test_the_average_is_the_formulas_and_short_runs_forget_the_start() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = MovingAverage(network, 0.3)
    updated(network, average, [1.0, 2.0, 4.0, 8.0])
    expected = 0.0
    for number, value in enumerate([1.0, 2.0, 4.0, 8.0], 1):
        decay = min(0.3, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    assert float(average.tensors["weight"]) == pytest.approx(expected)
    assert (1 + 1) / (10 + 1) < 0.3 < (1 + 4) / (10 + 4)  # both sides of the smaller were met


def test_a_running_count_is_copied_and_running_statistics_are_averaged() -> None:
    network = nn.BatchNorm1d(1)
    average = MovingAverage(network, 0.9)
    for _ in range(3):
        network(torch.tensor([[1.0], [3.0]]))
        average.update()
    assert int(average.tensors["num_batches_tracked"]) == 3
    assert 0 < float(average.tensors["running_mean"]) < 2
    assert float(average.tensors["running_mean"]) != float(network.running_mean)


def test_the_network_holds_the_average_in_the_block_and_the_very_weights_behind_it() -> None:
    network = nn.Linear(2, 2)
    average = MovingAverage(network, 0.5)
    updated(network, average, [1.0, 3.0])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with average.in_place():
        assert same(network.state_dict(), average.tensors)
        assert not same(network.state_dict(), before)
    assert same(network.state_dict(), before)


class Rising:
    """A metric that says that every epoch is better, and keeps the scores that it was given."""

    seen: list[Any]

    def __init__(self) -> None:
        self.seen.append([])

    def update(self, outputs: Any, labels: Any) -> None:
        self.seen[-1].append(outputs["scores"])

    def compute(self) -> float:
        return float(len(self.seen))


def test_what_is_validated_and_kept_is_the_average(recoverer: Recoverer) -> None:
    """One update: the average is 9 / 11 of the way."""

    class Metric(Rising):
        seen: list[Any] = []  # noqa: RUF012 (of this test alone)

    recoverer.lone.module("metric", Made=Metric)
    recoverer.metric = {"factory": "metric:Made", "arguments": {}}
    start = seeded().state_dict()
    plain = weights(recoverer.run(seeded(), batch_size=64, learning_rate=0.02))
    averaged = weights(recoverer.run(seeded(), batch_size=64, learning_rate=0.02, ema=0.999))
    for name, value in start.items():
        torch.testing.assert_close(averaged[name], value.lerp(plain[name], 9 / 11))
    network = Net()
    network.load_state_dict(averaged)
    scores = network(stacked(Coloured(48, seed=1))[0]).detach()
    torch.testing.assert_close(torch.from_numpy(np.concatenate(Metric.seen[-1])), scores)


def test_training_is_the_same_with_and_without_an_average(recoverer: Recoverer) -> None:
    def losses(ema: float) -> list[Any]:
        return [point["loss"] for point in curve(recoverer.run(seeded(), epochs=3, learning_rate=0.02, ema=ema))]

    assert losses(0.0) == losses(0.99)
