"""A folded batch norm changes no output; what cannot be folded stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.builder.lone_stage import LoneStage, model_of
from tests.builder.recoverer import same
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import FoldedNorms, architecture_from_json, architecture_to_json
from enginewright.errors import DataError
from enginewright.networks import checked_outputs
from enginewright.signature import Signature, largest_difference
from enginewright.training.folding import TOLERANCE, fold_norms

SHAPE = (4, 6, 6)
SIGNATURE = Signature.from_json(model_of(SHAPE))


def trained(network: nn.Module) -> nn.Module:
    """Norms with statistics, scales and shifts of their own."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for name, (mean, spread) in {"running_mean": (0, 1), "weight": (1, 0.4), "bias": (0, 1)}.items():
                if (value := getattr(module, name)) is not None:
                    value.data.normal_(mean, spread, generator=generator)
            if module.running_var is not None:
                module.running_var.uniform_(0.3, 3, generator=generator)
    return network.eval()


def parts(network: nn.Module) -> set[str]:
    return {path for path, module in network.named_modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))}


class Pair(nn.Sequential):
    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__(layer, norm)


class Vectors(nn.Module):
    """A linear layer without and one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)
        self.second, self.other = nn.Linear(6, 3), nn.BatchNorm1d(3)

    def forward(self, image: Tensor) -> Tensor:
        return self.other(self.second(torch.relu(self.norm(self.first(image.mean((2, 3)))))))


FOLDED: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Pair(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)),
    "with a bias": lambda: Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)),
    "depthwise": lambda: Pair(nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)),
    "transposed": lambda: Pair(nn.ConvTranspose2d(4, 6, 2, 2, bias=False), nn.BatchNorm2d(6)),
    "transposed in groups": lambda: Pair(nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6)),
    "a norm without scales": lambda: Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
    "linear": Vectors,
}


@pytest.mark.parametrize("factory", FOLDED.values(), ids=FOLDED)
def test_a_folded_norm_changes_no_output_and_is_gone(factory: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = trained(factory())
    inputs = SIGNATURE.example(batch=3, seed=1)
    before = checked_outputs(network, inputs, SIGNATURE)["scores"]
    norms = parts(network)
    folded = fold_norms(network, SIGNATURE)
    assert set(folded.norms.values()) == norms
    assert not parts(network)
    assert largest_difference(checked_outputs(network, inputs, SIGNATURE)["scores"], before) < TOLERANCE


class Twice(nn.Module):
    """The convolution is read by its norm and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> Tensor:
        inner = self.conv(image)
        return inner + self.norm(inner)


class Again(nn.Module):
    """One convolution is run twice, and has a norm behind the second run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(image)))


class Between(nn.Module):
    """Something stands between the convolution and its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(torch.relu(self.conv(image)))


STAYING: dict[str, Callable[[], nn.Module]] = {
    "read elsewhere": Twice,
    "run twice": Again,
    "not behind it": Between,
    "before a convolution": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)),
    "without statistics": lambda: Pair(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
}


@pytest.mark.parametrize("factory", STAYING.values(), ids=STAYING)
def test_what_cannot_be_folded_stays_with_the_very_weights(factory: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = trained(factory())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert fold_norms(network, SIGNATURE) == FoldedNorms({})
    assert same(network.state_dict(), before)


def test_a_pair_that_folds_does_so_beside_one_that_does_not() -> None:
    torch.manual_seed(0)
    network = trained(nn.Sequential(Twice(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)))
    assert fold_norms(network, SIGNATURE) == FoldedNorms({"1": "2"})


def test_the_checkpoint_of_a_folded_network_is_rebuilt_from_its_factory(lone: LoneStage, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lone.module("model", Net=Vectors)
    network = trained(Vectors())
    inputs = SIGNATURE.example(batch=3, seed=1)
    before = checked_outputs(network, inputs, SIGNATURE)["scores"]
    folded = fold_norms(network, SIGNATURE)
    save_checkpoint(tmp_path / "folded", network.state_dict(), (folded,))
    rebuilt = make_network(model_of(SHAPE), tmp_path, *load_checkpoint(tmp_path / "folded"))
    assert largest_difference(checked_outputs(rebuilt, inputs, SIGNATURE)["scores"], before) < TOLERANCE


def test_the_edit_survives_json_and_names_what_is_missing() -> None:
    edit = FoldedNorms({"first": "norm"})
    assert architecture_from_json(architecture_to_json((edit,))) == (edit,)
    network = Vectors()
    edit.apply(network)
    assert network.first.bias is not None
    assert isinstance(network.norm, nn.Identity)
    with pytest.raises(DataError, match="no module 'gone'"):
        FoldedNorms({"gone": "norm"}).apply(Vectors())
    with pytest.raises(DataError, match="module 'norm' is a BatchNorm1d"):
        FoldedNorms({"norm": "other"}).apply(Vectors())
