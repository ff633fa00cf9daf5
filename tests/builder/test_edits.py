"""Edits change the structure of a network as their data says, and what they leave computes what it should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from enginewright.edits import Kept, KeptChannels, RemovedBlocks, apply_edits, architecture_from_json
from enginewright.errors import DataError

CUTS: dict[str, tuple[Callable[[], nn.Module], Kept, tuple[int, ...], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3), Kept((0, 3), (5, 1)), (2, 2, 7), (2, 2, 5)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), Kept((0, 3), (5, 1)), (2, 2, 7, 7), (2, 2, 5, 5)),
    "Conv2d, outputs": (lambda: nn.Conv2d(4, 6, 3), Kept(outputs=(5, 1)), (2, 4, 7, 7), (2, 2, 5, 5)),
    "Conv2d, inputs": (lambda: nn.Conv2d(4, 6, 3, bias=False), Kept(inputs=(1, 2)), (2, 2, 7, 7), (2, 6, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 3), Kept((0, 3), (5, 1)), (2, 2, 3, 3, 3), (2, 2, 1, 1, 1)),
    "depthwise": (
        lambda: nn.Conv2d(6, 6, 3, groups=6),
        Kept((0, 4, 5), (0, 4, 5)),
        (2, 3, 7, 7),
        (2, 3, 5, 5),
    ),
    "grouped": (
        lambda: nn.Conv2d(8, 12, 3, groups=4),
        Kept((0, 2, 4, 6), (1, 2, 3, 5, 7, 8, 9, 10)),
        (2, 4, 7, 7),
        (2, 8, 5, 5),
    ),
    "grouped, outputs": (lambda: nn.Conv2d(4, 6, 3, groups=2), Kept(outputs=(0, 5)), (2, 4, 7, 7), (2, 2, 5, 5)),
    "two outputs a channel": (
        lambda: nn.Conv2d(3, 6, 3, groups=3),
        Kept(outputs=(0, 3, 4)),
        (2, 3, 7, 7),
        (2, 3, 5, 5),
    ),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 2), Kept((0, 3), (5, 1, 2)), (2, 2, 4, 4), (2, 3, 5, 5)),
    "Linear": (lambda: nn.Linear(4, 6), Kept((0, 3), (5, 1)), (2, 2), (2, 2)),
    "BatchNorm2d": (lambda: _seen(nn.BatchNorm2d(6)), Kept(None, (5, 1)), (2, 2, 4, 4), (2, 2, 4, 4)),
    "BatchNorm2d, plain": (
        lambda: nn.BatchNorm2d(6, affine=False),
        Kept(None, (5, 1)),
        (2, 2, 4, 4),
        (2, 2, 4, 4),
    ),
    "PReLU": (lambda: nn.PReLU(6), Kept(None, (5, 1)), (2, 2, 4, 4), (2, 2, 4, 4)),
}


def _seen(norm: nn.Module) -> nn.Module:
    """A batch normalisation whose statistics and weights are no longer those of a new one."""
    for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


def masked(module: nn.Module, kept: Kept, inputs: torch.Tensor) -> torch.Tensor:
    """What the whole module gives on the kept channels where those that go are zero: the definition of cutting down."""
    full_inputs = inputs
    if kept.inputs is not None or not isinstance(module, (nn.Conv2d, nn.Linear)):
        places = kept.inputs if kept.inputs is not None else kept.outputs
        assert places is not None
        channels = next(
            getattr(module, name)
            for name in ("in_channels", "in_features", "num_features", "num_parameters")
            if hasattr(module, name)
        )
        full_inputs = torch.zeros(inputs.shape[0], channels, *inputs.shape[2:])
        full_inputs[:, list(places)] = inputs
    outputs = module(full_inputs)
    return outputs if kept.outputs is None else outputs[:, list(kept.outputs)]


@pytest.mark.parametrize("case", CUTS)
def test_a_module_that_is_cut_down_computes_what_it_did_on_the_channels_that_remain(case: str) -> None:
    make, kept, shape, wanted = CUTS[case]
    torch.manual_seed(0)
    network = nn.Sequential(make()).eval()
    inputs = torch.randn(shape)
    with torch.no_grad():
        expected = masked(network[0], kept, inputs)
        KeptChannels({"0": kept}).apply(network)
        actual = network(inputs)
    assert actual.shape == wanted
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_module_that_is_cut_down_tells_its_new_size() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.PReLU(6), nn.Flatten(), nn.Linear(6, 4))
    cut = Kept(outputs=(0, 2))
    KeptChannels({"0": Kept((1,), (0, 2)), "1": cut, "2": cut, "4": Kept((0, 2), (3,))}).apply(network)
    assert repr(network[0]).startswith("Conv2d(1, 2,")
    assert repr(network[1]).startswith("BatchNorm2d(2,")
    assert repr(network[2]) == "PReLU(num_parameters=2)"
    assert repr(network[4]) == "Linear(in_features=2, out_features=1, bias=True)"


def test_group_normalization_keeps_its_groups() -> None:
    network = nn.Sequential(nn.GroupNorm(2, 8))
    with torch.no_grad():
        network[0].weight.copy_(torch.arange(8.0))
    KeptChannels({"0": Kept(outputs=(0, 3, 5, 6))}).apply(network)
    assert repr(network[0]).startswith("GroupNorm(2, 4,")
    assert network[0].weight.tolist() == [0, 3, 5, 6]
    assert network(torch.randn(2, 4, 5, 5)).shape == (2, 4, 5, 5)


@pytest.mark.parametrize(
    ("module", "kept", "words"),
    [
        (nn.LayerNorm(4), Kept(outputs=(1,)), "module '0' is a LayerNorm"),
        (nn.Conv2d(4, 8, 3, groups=2), Kept((0, 3)), "a convolution in 2 groups, which would keep different channels"),
        (nn.Conv2d(8, 8, 3, groups=4), Kept((0, 4)), "a convolution in 4 groups, which would keep different channels"),
        (
            nn.Conv2d(4, 8, 3, groups=4),
            Kept(None, (0, 1, 2, 4, 6)),
            "divided into 4 groups, which would keep different numbers of channels",
        ),
        (nn.GroupNorm(2, 4), Kept(None, (0, 1, 2)), "divided into 2 groups, which would keep different numbers"),
        (nn.ConvTranspose2d(4, 4, 2, groups=2), Kept((0, 2)), "a transposed convolution in 2 groups"),
    ],
)
def test_channels_that_cannot_be_kept_as_data_are_named(module: nn.Module, kept: Kept, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        KeptChannels({"0": kept}).apply(nn.Sequential(module))
    assert "prune.keep" in caught.value.hint


def test_a_module_that_is_not_there_is_named() -> None:
    for edit in (KeptChannels({"stem": Kept()}), RemovedBlocks(("stem",))):
        with pytest.raises(DataError, match="the network has no module 'stem'"):
            edit.apply(nn.Sequential(nn.ReLU()))


def test_a_removed_block_gives_what_it_is_given() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))
    RemovedBlocks(("1",)).apply(network)
    inputs = torch.randn(2, 3)
    assert torch.equal(network(inputs), network[2](network[0](inputs)))
    assert {name.split(".")[0] for name in network.state_dict()} == {"0", "2"}


def test_edits_are_applied_in_their_order() -> None:
    """Channels are indices into the network as the edit finds it."""
    network = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Sequential(nn.Conv2d(6, 6, 1)))
    weight = network[0].weight.detach().clone()
    first = KeptChannels({"0": Kept(outputs=(1, 2, 4, 5)), "1.0": Kept((1, 2, 4, 5), (1, 2, 4, 5))})
    apply_edits(network, (first, RemovedBlocks(("1",)), KeptChannels({"0": Kept(outputs=(0, 3))})))
    assert torch.equal(network[0].weight, weight[[1, 5]])


def test_an_edit_of_a_newer_version_is_refused() -> None:
    with pytest.raises(DataError, match="an edit 'folded_twice', which this version does not know") as caught:
        architecture_from_json([{"edit": "folded_twice", "modules": []}])
    assert "newer" in caught.value.hint
