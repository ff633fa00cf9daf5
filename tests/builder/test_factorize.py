"""Factorizing replaces a layer by thinner ones that compute nearly the same, and what it leaves is described by data.

Ranks and energies are computed here on their own, with numpy from the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.lone_stage import DATA, LoneStage, Ran, model_of
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import (
    Factorized,
    KeptChannels,
    Ranks,
    apply_edits,
    architecture_from_json,
    architecture_to_json,
)
from enginewright.errors import DataError
from enginewright.networks import count_macs
from enginewright.signature import Signature
from enginewright.stages.factorize import TOLERANCE

IMAGE = (3, 16, 16)
pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """A stem, convolutions with a kernel, one without that strides, a depthwise one, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.wide = nn.Conv2d(64, 80, 3, padding=1)
        self.more = nn.Sequential(*(nn.Conv2d(80, 80, 3, padding=1) for _ in range(3)))
        self.thin = nn.Conv2d(80, 96, 1, stride=2)
        self.deep = nn.Conv2d(96, 96, 3, groups=96)
        self.body = nn.Sequential(nn.Linear(96, 64), nn.ReLU())
        self.head = nn.Linear(64, 4)

    def forward(self, image: Tensor) -> Tensor:
        features = self.more(torch.relu(self.wide(torch.relu(self.norm(self.stem(image))))))
        return self.head(self.body(self.deep(torch.relu(self.thin(features))).mean((2, 3))))


def random_of_rank(*shape: int, inputs: int, outputs: int) -> Tensor:
    """Random weights whose unfoldings have these ranks."""
    core = torch.randn(outputs, inputs, *shape[2:])
    return torch.einsum("or,rs...,is->oi...", torch.randn(shape[0], outputs), core, torch.randn(shape[1], inputs))


def seeded(factory: Callable[[], nn.Module] = Net) -> nn.Module:
    """A network whose weights have directions that count more and others that count less, as trained ones have."""
    torch.manual_seed(0)
    network = factory().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and getattr(module, "groups", 1) == 1:
                outputs, inputs = (0.95 ** torch.arange(size) for size in module.weight.shape[:2])
                module.weight.mul_(torch.einsum("o,i->oi", outputs, inputs).reshape(-1, len(inputs), *kernel(module)))
    return network


def kernel(module: nn.Module) -> list[int]:
    return [1] * (module.weight.ndim - 2)


class Factorizer:
    """Runs the stage on a network of these tests."""

    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.folder = lone, folder

    def start(self, network: nn.Module, factory: Callable[[], nn.Module] = Net) -> Path:
        self.lone.module("model", Net=factory)
        path = self.folder / "start"
        save_checkpoint(path, network.state_dict(), ())
        return path

    def run(self, checkpoint: Path, *, keep: Sequence[str] = (), **share: float) -> Ran:
        parameters = {"macs": None, "energy": None, "keep": list(keep), "model": model_of(IMAGE), **share}
        return self.lone.run("factorize", parameters, checkpoint=checkpoint)

    def factorized(
        self, network: nn.Module, factory: Callable[[], nn.Module] = Net, **how: Any
    ) -> tuple[Ran, nn.Module]:
        ran = self.run(self.start(network, factory), **how)
        return ran, self.rebuilt(ran.output("checkpoint"))

    def rebuilt(self, checkpoint: Path) -> nn.Module:
        return make_network(model_of(IMAGE), self.folder, *load_checkpoint(checkpoint))


@pytest.fixture
def factorizer(lone: LoneStage, tmp_path: Path) -> Factorizer:
    return Factorizer(lone, tmp_path)


def ranks_of(ran: Ran) -> dict[str, Ranks]:
    _, architecture = load_checkpoint(ran.output("checkpoint"))
    return {
        path: ranks for edit in architecture if isinstance(edit, Factorized) for path, ranks in edit.modules.items()
    }


def unfolded(weight: Tensor, axis: int) -> np.ndarray:
    return np.moveaxis(weight.detach().double().numpy(), axis, 0).reshape(weight.shape[axis], -1)


def smallest_rank(weight: Tensor, axis: int, energy: float) -> int:
    """The smallest multiple of eight that keeps `energy`."""
    squared = np.linalg.svd(unfolded(weight, axis), compute_uv=False) ** 2
    return next(rank for rank in range(8, 1000, 8) if squared[:rank].sum() >= energy * squared.sum())


def product(factors: nn.Module) -> Tensor:
    """The weights (outputs, inputs, ...) of the one layer that the factors amount to."""
    parts = dict(factors.named_children())
    weight = parts["core"].weight
    if "first" in parts:
        weight = torch.einsum("or...,ri->oi...", weight, parts["first"].weight.flatten(1))
    if "last" in parts:
        weight = torch.einsum("ro...,sr->so...", weight, parts["last"].weight.flatten(1))
    return weight


def energy_kept(factors: nn.Module, weight: Tensor) -> float:
    return float(1 - (product(factors) - weight).detach().square().sum() / weight.detach().square().sum())


def test_each_rank_is_the_smallest_multiple_of_eight_that_keeps_the_energy_of_its_side(factorizer: Factorizer) -> None:
    network = seeded()
    ran, factorized = factorizer.factorized(network, energy=0.97)
    found = ranks_of(ran)
    wide = network.wide.weight
    assert found["wide"] == Ranks(smallest_rank(wide, 1, 0.97), smallest_rank(wide, 0, 0.97))
    assert found["body.0"] == Ranks(smallest_rank(network.body[0].weight, 1, 0.97))
    assert [name for name, _ in factorized.wide.named_children()] == ["first", "core", "last"]
    assert [name for name, _ in factorized.body[0].named_children()] == ["first", "core"]


def test_more_energy_keeps_more(factorizer: Factorizer) -> None:
    network = seeded()
    ranks, kept = [], []
    for energy in (0.6, 0.9, 0.99):
        ran, factorized = factorizer.factorized(network, energy=energy)
        ranks.append(sum(item for found in ranks_of(ran).values() for item in (found.inputs, found.outputs) if item))
        shares = [
            energy_kept(factorized.get_submodule(path), network.get_submodule(path).weight) for path in ranks_of(ran)
        ]
        kept.append(min(shares))
        assert ran.outcome.summary["mean_energy_kept"] == pytest.approx(np.mean(shares), abs=1e-4)
        assert min(shares) >= 2 * energy - 1  # what the unfoldings lose adds up at worst (De Lathauwer et al. 2000)
    assert kept == sorted(kept)
    assert kept[0] < kept[-1]


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (1, 5), "padding": (0, 2), "dilation": (1, 2)},
        {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
        {"kernel_size": 1, "stride": 2, "padding": 1},
        {"kernel_size": 3, "bias": False},
    ],
    ids=str,
)
def test_a_convolution_of_low_rank_computes_the_same_afterwards(geometry: Any, factorizer: Factorizer) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(24, 32, **geometry)

        def forward(self, image: Tensor) -> Tensor:
            return self.conv(torch.cat([image] * 8, 1) * torch.linspace(-1, 1, 24).view(-1, 1, 1))

    torch.manual_seed(0)
    network = One().eval()
    with torch.no_grad():
        network.conv.weight.copy_(random_of_rank(*network.conv.weight.shape, inputs=7, outputs=6))
    ran, factorized = factorizer.factorized(network, One, energy=0.9999)
    found = ranks_of(ran)["conv"]
    assert (found.inputs or 8, found.outputs or 8) == (8, 8)
    image = torch.randn(2, *IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(factorized(image), network(image), rtol=1e-4, atol=1e-4)


def test_a_linear_layer_becomes_its_truncated_singular_value_decomposition(factorizer: Factorizer) -> None:
    network = seeded()
    ran, factorized = factorizer.factorized(network, energy=0.9)
    layer, factors = network.body[0], factorized.body[0]
    rank = ranks_of(ran)["body.0"].inputs
    assert rank is not None
    left, values, right = np.linalg.svd(layer.weight.detach().double().numpy(), full_matrices=False)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose(product(factors).detach().numpy(), expected, atol=1e-6)
    assert torch.equal(factors.core.bias, layer.bias)
    assert factors.first.bias is None


def test_orthogonal_iteration_keeps_more_than_the_singular_vectors_alone(factorizer: Factorizer) -> None:
    network = seeded()
    with torch.no_grad():
        network.wide.weight.normal_()  # nearly equal singular values: where the first guess is worst
    ran, factorized = factorizer.factorized(network, energy=0.45)
    found, weight = ranks_of(ran)["wide"], network.wide.weight
    assert found.inputs is not None
    assert found.outputs is not None
    sides = [np.linalg.svd(unfolded(weight, axis))[0] for axis in (0, 1)]
    double = weight.detach().double().numpy()
    core = np.einsum("oihw,or,is->rshw", double, sides[0][:, : found.outputs], sides[1][:, : found.inputs])
    alone = (core**2).sum() / (double**2).sum()
    assert energy_kept(factorized.wide, weight) > alone + 0.005


def test_factor_and_core_share_the_size_of_each_direction(factorizer: Factorizer) -> None:
    _, factorized = factorizer.factorized(seeded(), energy=0.9)
    first, core = factorized.body[0].first.weight, factorized.body[0].core.weight
    torch.testing.assert_close(first.norm(dim=1), core.norm(dim=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wanted", [0.3, 0.5, 0.7])
def test_the_asked_share_of_the_work_is_gone(wanted: float, factorizer: Factorizer) -> None:
    network, signature = seeded(), Signature.from_json(model_of(IMAGE))
    ran, factorized = factorizer.factorized(network, macs=wanted)
    before, after = count_macs(network, signature), count_macs(factorized, signature)
    assert 1 - after / before == pytest.approx(wanted, abs=TOLERANCE)
    summary = ran.outcome.summary
    assert (summary["macs_before"], summary["macs"]) == (before, after)
    assert summary["removed"] == pytest.approx(1 - after / before, abs=1e-4)
    assert summary["factorized"] == len(ranks_of(ran)) >= 1
    assert (
        summary["layers_added"]
        == len(list(factorized.modules())) - len(list(network.modules())) - summary["factorized"]
    )


def test_a_stride_is_taken_before_the_work(factorizer: Factorizer) -> None:
    """A layer at the resolution of the input costs four times as much as one behind the stride."""
    ran, factorized = factorizer.factorized(seeded(), energy=0.9)
    assert ranks_of(ran)["thin"].inputs is None
    assert factorized.thin.core.stride == (2, 2)
    assert factorized.thin.core.bias is None


def test_grouped_layers_and_those_to_keep_stay_with_all_that_is_within_them(factorizer: Factorizer) -> None:
    ran, factorized = factorizer.factorized(seeded(), energy=0.9, keep=("thin", "body", "head", "more"))
    assert set(ranks_of(ran)) == {"wide", "stem"}
    assert isinstance(factorized.deep, nn.Conv2d)
    assert isinstance(factorized.body[0], nn.Linear)
    assert ran.warnings() == []


def test_channels_up_to_eight_are_not_rounded(factorizer: Factorizer) -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 5)

        def forward(self, image: Tensor) -> Tensor:
            return self.conv(image)

    torch.manual_seed(0)
    network = Narrow().eval()
    with torch.no_grad():
        network.conv.weight.copy_(random_of_rank(8, 3, 5, 5, inputs=3, outputs=2))
    ran, _ = factorizer.factorized(network, Narrow, energy=0.9999)
    assert ranks_of(ran) == {"conv": Ranks(None, 2)}


def test_a_core_has_no_more_inputs_than_weights_for_its_outputs(factorizer: Factorizer) -> None:
    """Rounded up, nine directions would be sixteen; but three outputs with a kernel of three tell only nine apart."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(63, 6, (1, 3), padding=(0, 20))

        def forward(self, image: Tensor) -> Tensor:
            return self.conv(torch.cat([image] * 21, 1) * torch.linspace(-1, 1, 63).view(-1, 1, 1))

    torch.manual_seed(0)
    network = Padded().eval()
    with torch.no_grad():
        into, out_of = (torch.linalg.qr(torch.randn(shape))[0] for shape in ((63, 9), (6, 3)))
        network.conv.weight.copy_(torch.einsum("or,irk->oik", out_of, into.view(63, 3, 3)).unsqueeze(2))
    ran, factorized = factorizer.factorized(network, Padded, energy=0.9999)
    assert ranks_of(ran) == {"conv": Ranks(9, 3)}
    image = torch.randn(2, *IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(factorized(image), network(image), rtol=1e-4, atol=1e-4)


class Attending(nn.Module):
    """torch's own layers, two linear layers with one weight, and one whose weight is read and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(48, 2, 96, batch_first=True, dropout=0.0)
        self.one, self.two = nn.Linear(48, 48), nn.Linear(48, 48)
        self.two.weight = self.one.weight
        self.read, self.free = nn.Linear(48, 48), nn.Linear(48, 48)
        self.named = nn.utils.weight_norm(nn.Linear(48, 48))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.two(self.one(self.encoder(image.flatten(2)[:, :, :48])))
        return self.named(self.free(nn.functional.linear(tokens, self.read.weight)))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_layers_whose_weights_something_else_reads_stay(factorizer: Factorizer) -> None:
    torch.manual_seed(0)
    ran, _ = factorizer.factorized(Attending().eval(), Attending, energy=0.3)
    assert set(ranks_of(ran)) == {"free"}


def test_a_forward_that_reads_the_attributes_of_a_layer_is_told_which_key_keeps_it(factorizer: Factorizer) -> None:
    class Curious(Net):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * self.wide.out_channels

    with pytest.raises(DataError, match=r"does not run with factors .* 'out_channels'") as caught:
        factorizer.factorized(seeded(Curious), Curious, energy=0.9)
    assert "factorize.keep" in caught.value.hint


def test_where_nothing_is_worth_it_the_network_stays_and_that_is_said(factorizer: Factorizer) -> None:
    network = seeded()
    with torch.no_grad():
        for module in (network.stem, network.wide, *network.more, network.thin, network.body[0], network.head):
            module.weight.normal_()
    ran, factorized = factorizer.factorized(network, energy=0.9999)
    assert ran.warnings() == [
        "no layer was factorized: at an energy of 0.9999, the factors of each would cost as much as the layer"
    ]
    assert load_checkpoint(ran.output("checkpoint"))[1] == ()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in factorized.state_dict().items())
    assert ran.outcome.summary["macs"] == ran.outcome.summary["macs_before"]


def test_a_layer_of_zeros_stays(factorizer: Factorizer) -> None:
    network = seeded()
    with torch.no_grad():
        network.wide.weight.zero_()
    ran, _ = factorizer.factorized(network, energy=0.9)
    assert "wide" not in ranks_of(ran)


def test_a_share_that_cannot_be_reached_says_what_was(factorizer: Factorizer) -> None:
    with pytest.raises(DataError, match=r"cannot remove 50% .* the nearest reached is [1-9]\d?\.\d%"):
        factorizer.factorized(seeded(), macs=0.5, keep=("more",))


def test_a_module_to_keep_that_is_not_there_is_named(factorizer: Factorizer) -> None:
    with pytest.raises(DataError, match=r"factorize\.keep names 'boddy', which is no module") as caught:
        factorizer.factorized(seeded(), energy=0.9, keep=("boddy",))
    assert caught.value.hint == "did you mean 'body'?"


def test_the_same_step_gives_the_same_bytes_again(factorizer: Factorizer) -> None:
    start = factorizer.start(seeded())
    both = [factorizer.run(start, energy=0.9).output("checkpoint").read_bytes() for _ in range(2)]
    assert both[0] == both[1]


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("order", [("prune", "factorize"), ("factorize", "prune"), ("factorize", "factorize")])
def test_it_works_before_and_after_pruning(order: tuple[str, str], factorizer: Factorizer) -> None:
    checkpoint, signature = factorizer.start(seeded()), Signature.from_json(model_of(IMAGE))
    pruning = {"importance": "magnitude", "samples": 8, "round_to": 4, "data": DATA}
    macs = [count_macs(seeded(), signature)]
    for stage in order:
        share = {"macs": 0.3, "keep": ["head"], "model": model_of(IMAGE), "energy": None}
        parameters = share | (pruning if stage == "prune" else {})
        ran = factorizer.lone.run(stage, parameters, checkpoint=checkpoint)
        checkpoint = ran.output("checkpoint")
        macs.append(count_macs(factorizer.rebuilt(checkpoint), signature))
        assert 1 - macs[-1] / macs[-2] == pytest.approx(0.3, abs=TOLERANCE)
    _, architecture = load_checkpoint(checkpoint)
    kinds = {"prune": KeptChannels, "factorize": Factorized}
    assert [type(edit) for edit in architecture] == [kinds[stage] for stage in order]


def test_the_edit_survives_json_and_makes_modules_of_the_right_shapes() -> None:
    edit = Factorized({"wide": Ranks(16, 24), "thin": Ranks(None, 8), "head": Ranks(2)})
    (again,) = architecture_from_json(architecture_to_json((edit,)))
    assert again == edit
    network = Net().double()
    apply_edits(network, (again,))
    shapes = {
        name: tuple(value.shape)
        for name, value in network.state_dict().items()
        if name.partition(".")[0] in edit.modules
    }
    assert shapes == {
        "wide.first.weight": (16, 64, 1, 1),
        "wide.core.weight": (24, 16, 3, 3),
        "wide.last.weight": (80, 24, 1, 1),
        "wide.last.bias": (80,),
        "thin.core.weight": (8, 80, 1, 1),
        "thin.last.weight": (96, 8, 1, 1),
        "thin.last.bias": (96,),
        "head.first.weight": (2, 64),
        "head.core.weight": (4, 2),
        "head.core.bias": (4,),
    }
    assert {value.dtype for name, value in network.named_parameters()} == {torch.float64}


def test_an_edit_for_a_module_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"module 'norm' is a BatchNorm2d") as caught:
        apply_edits(Net(), (Factorized({"norm": Ranks(8)}),))
    assert caught.value.hint == "was model.py changed?"
