"""The simulated network computes what the quantized one will; without the simulation it is the network that it was."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builder.exporting import exported, quantized, run_in_float
from tests.builder.lone_stage import model_of
from tests.builder.recoverer import same
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from enginewright.datasets import Batch
from enginewright.errors import DataError
from enginewright.graph.dialects import DIALECTS
from enginewright.signature import Signature
from enginewright.training.forward import Forward, channels_last
from enginewright.training.simulation import Simulated, simulate

SHAPE = (16, 8, 8)
FORWARD = Forward(Signature.from_json(model_of(SHAPE)), torch.device("cpu"), "float32")


class Mixed(nn.Module):
    """Convolutions that share an input, one that is transposed, one too thin for a GPU, and a head of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(16, 24, 1)
        self.up = nn.ConvTranspose2d(24, 16, 2, 2)
        self.last, self.thin = nn.Conv2d(16, 32, 3), nn.Conv2d(32, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        both = torch.relu(self.left(image)) * torch.sigmoid(self.right(image))
        inner = torch.relu(self.last(nn.functional.leaky_relu(self.up(both))))
        return self.head(torch.relu(self.thin(inner)).amax((2, 3)))


class Tokens(nn.Module):
    """Linear layers of many rows; one takes its input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(input=torch.relu(self.first(image.flatten(2)[..., :8])))


def batches(count: int = 3, size: int = 8) -> list[Batch]:
    random = np.random.default_rng(1)
    return [Batch({"image": random.standard_normal((size, *SHAPE)).astype(np.float32)}, None) for _ in range(count)]


def simulated(network: nn.Module, dialect: str) -> Simulated:
    return simulate(channels_last(network.eval()), FORWARD, batches(), DIALECTS[dialect])


def made(factory: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return factory().eval()


@pytest.mark.parametrize("factory", [Mixed, Tokens])
def test_it_computes_what_the_quantized_network_computes(factory: type[nn.Module], tmp_path: Path) -> None:
    """In the dialect that quantizes nothing but what enters a product."""
    network = made(factory)
    plain = exported(network, FORWARD.signature, tmp_path)
    twin = simulated(copy.deepcopy(network), "tensorrt").eval()
    assert set(twin.ranges()) == ({"left", "right", "up", "last"} if factory is Mixed else {"first", "second"})
    images = np.concatenate([batch.inputs["image"] for batch in batches()])
    ours = twin(torch.from_numpy(images)).detach().numpy()
    theirs = run_in_float(quantized(plain, images, twin.ranges(), "tensorrt"), images)
    exact = run_in_float(plain, images)
    # Here and there a value lies on the edge of two integers, and goes to the other.
    rounding = np.quantile(np.abs(theirs - exact), 0.9)
    assert rounding > 1e-4
    assert np.quantile(np.abs(ours - theirs), 0.9) < 0.05 * rounding


def test_what_runs_in_int8_is_up_to_the_dialect() -> None:
    assert set(simulated(made(Mixed), "onnxruntime-x86").ranges()) == {"left", "right", "last", "thin", "head"}
    assert set(simulated(made(Mixed), "tensorrt").ranges()) == {"left", "right", "up", "last"}


def test_layers_that_read_one_tensor_share_one_range() -> None:
    twin = simulated(made(Mixed), "onnxruntime-x86")
    assert len(twin.inputs) == 4
    with torch.no_grad():
        twin.inputs[0].growth.fill_(1.0)
    ranges = twin.ranges()
    assert ranges["left"] == ranges["right"] != ranges["last"]


def test_ranges_start_where_the_batches_leave_few_values_outside() -> None:
    twin = simulated(made(Mixed), "onnxruntime-x86")
    ends = [np.quantile(batch.inputs["image"], [0.0001, 0.9999]) for batch in batches()]
    found = twin.ranges()["left"]
    assert (found.low, found.high) == pytest.approx(tuple(np.mean(ends, 0)), rel=0.05)


def test_a_tensor_that_is_always_zero_has_a_range() -> None:
    network = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    nn.init.constant_(network[0].weight, 0)
    nn.init.constant_(network[0].bias, -1)
    twin = simulated(network, "onnxruntime-x86")
    assert 0 == twin.ranges()["2"].low < twin.ranges()["2"].high
    assert twin(torch.zeros(1, *SHAPE)).isfinite().all()


def test_the_state_without_the_simulation_is_that_of_the_network(tmp_path: Path) -> None:
    network = made(Mixed)
    twin = simulated(copy.deepcopy(network), "onnxruntime-x86")
    assert same(twin.plain_state(), network.state_dict())
    fresh = Mixed()
    fresh.load_state_dict(twin.plain_state())


def test_a_parametrization_of_the_users_stays() -> None:
    network = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(16, 4, 3)), nn.Conv2d(4, 4, 1))
    parametrizations.orthogonal(network[1])
    twin = simulated(copy.deepcopy(network), "onnxruntime-x86")
    assert same(twin.plain_state(), network.state_dict())
    assert set(twin.ranges()) == {"0", "1"}


def test_a_layer_that_runs_twice_covers_what_both_runs_read() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1, bias=False)

        def forward(self, image: Tensor) -> Tensor:
            return self.conv(10 * torch.relu(self.conv(image)))

    network = made(Again)
    again = torch.relu(network.conv(torch.from_numpy(batches()[0].inputs["image"])))
    found = simulated(network, "onnxruntime-x86").ranges()["conv"]
    assert found.low < -2
    assert found.high > 8 * again.max().item()


def test_a_network_without_a_layer_for_int8_is_refused() -> None:
    with pytest.raises(DataError, match="finds no layer that would run in int8 for tensorrt") as caught:
        simulated(nn.Conv2d(16, 4, 1), "tensorrt")
    assert "leave out quantized: true" in caught.value.hint


def test_in_bfloat16_the_integers_and_the_gradients_are_those_of_float32() -> None:
    twin = simulated(nn.Conv2d(16, 16, 1, bias=False), "onnxruntime-x86")
    round_ = twin.inputs[0]
    # Some of them lie nearly half a step from their integer, and some far outside.
    values = torch.linspace(-6, 6, 40_001).bfloat16().requires_grad_()
    same_values = values.detach().float().requires_grad_()
    ours, theirs = round_(values), round_(same_values)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs.bfloat16())
    ours.float().sum().backward()
    growth, round_.growth.grad = round_.growth.grad, None
    theirs.sum().backward()
    assert torch.equal(values.grad.float(), same_values.grad)
    torch.testing.assert_close(growth, round_.growth.grad, rtol=0.02, atol=10)
