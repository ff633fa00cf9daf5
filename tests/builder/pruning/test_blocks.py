"""Blocks that can be removed are found wherever a network has them, and are those that a person would name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.builder.lone_stage import model_of
from torch import Tensor, nn

from enginewright.errors import DataError, UserCodeError
from enginewright.networks import count_macs
from enginewright.pruning.blocks import bypassed, find_blocks, without_kept
from enginewright.signature import Signature

SIGNATURE = Signature.from_json(model_of((4, 6, 6)))
pytestmark = pytest.mark.usefixtures("one_thread")


def conv(inputs: int = 4, outputs: int = 4, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return features * torch.sigmoid(self.fc(features.mean((2, 3), keepdim=True)))


class Residual(nn.Module):
    """Inside the sum stand modules that keep the shape, too."""

    def __init__(self, width: int = 4, *, outputs: int | None = None) -> None:
        super().__init__()
        outputs = outputs or width
        self.body = nn.Sequential(conv(width, width), Gate(width), conv(width, outputs)[:2])
        self.shortcut = nn.Identity() if outputs == width else nn.Conv2d(width, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixing = nn.LayerNorm(36), nn.Linear(36, 36)
        self.mlp = nn.Sequential(nn.LayerNorm(36), nn.Linear(36, 72), nn.GELU(), nn.Linear(72, 36))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mixing(self.norm(tokens))
        return tokens + self.mlp(tokens)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.other = Residual(), Residual()

    def forward(self, image: Tensor) -> Tensor:
        return self.other(self.block(self.block(image)))


class Asking(nn.Module):
    """Calls its blocks with more than a tensor, or takes more than one from them."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = conv()

        def forward(self, image: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
            return self.layers(image) * scale, image

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.spare = self.Pair(), self.Pair(), self.Pair()

    def forward(self, image: Tensor) -> Tensor:
        return self.one(self.two(image, scale=2.0)[0])[0]


def named(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


FOUND: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "residual blocks, not what is inside": (lambda: named(conv(), Residual(), Residual()), ["0", "1", "2"]),
    "those of a stage, not the stage": (
        lambda: named(nn.Sequential(Residual(), Residual()), Residual(outputs=8), nn.Sequential(Residual(8))),
        ["0.0", "0.1", "1.body.0", "2.0"],
    ),
    "layers of a transformer": (lambda: named(nn.Flatten(2), Attention(), Attention()), ["1", "2"]),
    "plain layers": (lambda: named(conv(), conv(4, 8), nn.Sequential(conv(8, 8), conv(8, 8))), ["0", "2.0", "2.1"]),
    "those called once": (Twice, ["other"]),
}


@pytest.mark.parametrize("case", FOUND)
def test_blocks_are_found(case: str) -> None:
    torch.manual_seed(0)
    make, wanted = FOUND[case]
    assert [block.name for block in find_blocks(make().eval(), SIGNATURE)] == wanted


def test_what_goes_with_a_block_is_counted() -> None:
    network = named(nn.Conv2d(4, 4, 1), Residual()).eval()
    (block,) = find_blocks(network, SIGNATURE)
    before = count_macs(network, SIGNATURE)
    with bypassed(network, block.name):
        assert before - count_macs(network, SIGNATURE) == block.macs
    assert block.parameters == sum(value.numel() for value in network[1].parameters())


def test_a_bypassed_block_gives_what_it_is_given_and_is_back_afterwards() -> None:
    network: Any = named(conv(), Residual()).eval()
    image, block = torch.randn(2, 4, 6, 6), network[1]
    with torch.no_grad(), bypassed(network, "1"):
        assert torch.equal(network(image), network[0](image))
    assert network[1] is block
    with pytest.raises(KeyError), bypassed(network, "1"):
        raise KeyError
    assert network[1] is block


def test_looking_for_blocks_leaves_the_network_as_it_was() -> None:
    network = named(conv(), Residual()).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    find_blocks(network, SIGNATURE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_blocks_is_told_why() -> None:
    with pytest.raises(DataError, match=r"'0' makes \[2, 8, 6, 6\] of \[2, 4, 6, 6\]; '1' makes") as caught:
        find_blocks(named(conv(4, 8), conv(8, 4, stride=2)).eval(), SIGNATURE)
    assert "leave out the step 'prune_blocks'" in caught.value.hint
    with pytest.raises(DataError, match=r"gives one of the same shape\n"):
        find_blocks(named(nn.Conv2d(4, 4, 3), nn.ReLU()).eval(), SIGNATURE)


def test_blocks_with_other_calls_are_none_but_what_they_hold_may_be() -> None:
    assert [block.name for block in find_blocks(Asking().eval(), SIGNATURE)] == ["one.layers", "two.layers"]


def test_a_module_with_two_names_is_no_block() -> None:
    """The other name would lead to it still."""

    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.ModuleList([Residual(), Residual()])
            self.alias = self.stage[0]

        def forward(self, image: Tensor) -> Tensor:
            return self.stage[1](self.alias(image))

    assert [block.name for block in find_blocks(Aliased().eval(), SIGNATURE)] == ["stage.1"]


def test_blocks_to_keep_are_left_out_by_their_name_or_that_of_a_module_around_them() -> None:
    network = named(nn.Sequential(Residual(), Residual()), Residual(), Residual()).eval()
    blocks = find_blocks(network, SIGNATURE)
    assert [block.name for block in without_kept(blocks, ["0", "2.body"])] == ["1"]
    assert without_kept(blocks, []) == blocks


def test_a_block_to_keep_that_is_not_there_is_named() -> None:
    network = nn.Sequential()
    network.add_module("stem", conv(4, 8))
    network.add_module("stage", nn.Sequential(Residual(8), Residual(8)))
    blocks = find_blocks(network.eval(), SIGNATURE)
    with pytest.raises(DataError, match=r"prune_blocks\.keep names 'stag\.1', which is no block") as caught:
        without_kept(blocks, ["stag.1"])
    assert "Did you mean 'stage.1'?" in caught.value.hint
    with pytest.raises(DataError, match="'stem', which is no block"):
        without_kept(blocks, ["stem"])


def test_a_module_that_cannot_run_alone_is_the_users() -> None:
    scales: list[float] = []

    class Asking(Residual):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features) * scales[0]

    class Telling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Asking()

        def forward(self, image: Tensor) -> Tensor:
            scales.append(2.0)
            result = self.block(image)
            scales.clear()
            return result

    with pytest.raises(UserCodeError, match="running the module 'block' alone failed with IndexError"):
        find_blocks(Telling().eval(), SIGNATURE)
