"""Pruning removes whole channels until the asked share of the work is gone, and what it leaves is described by data.

The multiply-accumulates are counted here on their own, from the sizes of the weights and of the tensors that flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.lone_stage import DATA, LoneStage, Ran, Samples, model_of
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import Architecture, Kept, KeptChannels
from enginewright.errors import DataError
from enginewright.stages.prune import TOLERANCE

IMAGE = (3, 12, 12)
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Unwrapped parameters detected"),
]


def counted_macs(network: nn.Module, *inputs: Tensor) -> int:
    """Each weight of a convolution is used once for every output position (every input position, transposed)."""
    total = 0

    def count(module: Any, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += result.numel() * module.weight.shape[1]
        else:
            total += module.weight.numel() * (given[0] if module.transposed else result)[0, 0].numel()

    layers = [item for item in network.modules() if isinstance(item, (nn.Linear, nn.modules.conv._ConvNd))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return total


class Base(nn.Module):
    """Ends in a head with four classes; what stands before it is each network's own."""

    def __init__(self, features: int = 24) -> None:
        super().__init__()
        self.head = nn.Linear(features, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.features(image)).mean((2, 3)))


class Plain(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(image)))


class Depthwise(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.deep, self.b = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 24, 1)

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.deep(torch.relu(self.norm(self.a(image))))))


class Residual(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.b, self.c = nn.Conv2d(24, 32, 3, padding=1), nn.Conv2d(32, 24, 3, padding=1)

    def features(self, image: Tensor) -> Tensor:
        first = torch.relu(self.norm(self.a(image)))
        return first + self.c(torch.relu(self.b(first)))


class Slopes(Base):
    """A PReLU with a slope for every channel, and one with a single slope."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.many = nn.Conv2d(3, 24, 3, padding=1), nn.PReLU(24)
        self.b, self.one = nn.Conv2d(24, 24, 3, padding=1), nn.PReLU()

    def features(self, image: Tensor) -> Tensor:
        return self.one(self.b(self.many(self.a(image))))


class Upwards(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.up = nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ConvTranspose2d(32, 20, 2, stride=2)
        self.b = nn.Conv2d(20, 24, 3)

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.up(torch.relu(self.a(image)))))


class Flattened(Base):
    """A linear layer reads every position of every channel: a channel that goes takes nine of its inputs along."""

    def __init__(self) -> None:
        super().__init__(48)
        self.a, self.b = nn.Conv2d(3, 32, 3, stride=4, padding=1), nn.Linear(32 * 9, 48)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(image)).flatten(1))))


class Joined(Base):
    """Two branches side by side, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 20, 1)
        self.norm, self.c = nn.BatchNorm2d(52), nn.Conv2d(52, 24, 3)

    def features(self, image: Tensor) -> Tensor:
        left, right = self.a(image), self.b(image)
        return self.c(torch.relu(self.norm(torch.cat([left, right, left], 1))))


class TwoOutputs(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(24, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.features(image))
        return {"scores": self.head(features.mean((2, 3))), "mask": self.mask(features)}


class Grouped(Plain):
    """Convolutions in four and in six groups, and group normalization between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1, groups=4)
        self.norm, self.c = nn.GroupNorm(2, 48), nn.Conv2d(48, 24, 3, padding=1, groups=6)

    def features(self, image: Tensor) -> Tensor:
        return self.c(torch.relu(self.norm(self.b(torch.relu(self.a(image))))))


class Normed(Plain):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(image))))


def group_normed() -> Normed:
    return Normed(nn.GroupNorm(4, 24))


class Wide(Base):
    def __init__(self) -> None:
        super().__init__(48)
        self.a, self.deep = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 48, 3)

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.deep(torch.relu(self.a(image)))))


RIGHT: list[Callable[[], Base]] = [
    Plain,
    Depthwise,
    Residual,
    Slopes,
    Upwards,
    Flattened,
    Joined,
    Grouped,
    group_normed,
]


def seeded(factory: Callable[[], nn.Module], shape: Sequence[int] = IMAGE) -> nn.Module:
    """A network whose normalisations have seen something."""
    torch.manual_seed(0)
    network = factory().train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, *shape))
    return network.eval()


class Pruner:
    """Prunes a network of these tests through the stage, from one checkpoint to the next."""

    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.folder = lone, folder

    def start(self, network: nn.Module, factory: Callable[[], nn.Module]) -> Path:
        self.lone.module("model", Net=factory)
        path = self.folder / "start"
        save_checkpoint(path, network.state_dict(), ())
        return path

    def run(
        self, checkpoint: Path, *, macs: float = 0.4, keep: Sequence[str] = ("head",), round_to: int = 1, **more: Any
    ) -> Ran:
        model = model_of(IMAGE, outputs=more.pop("outputs", ("scores",)))
        parameters = {"importance": "magnitude", "samples": 24, "model": model, "data": DATA, **more}
        parameters |= {"macs": macs, "keep": list(keep), "round_to": round_to}
        return self.lone.run("prune", parameters, checkpoint=checkpoint)

    def rebuilt(self, checkpoint: Path) -> nn.Module:
        return make_network(model_of(IMAGE), self.folder, *load_checkpoint(checkpoint))


@pytest.fixture
def pruner(lone: LoneStage, tmp_path: Path) -> Pruner:
    return Pruner(lone, tmp_path)


@pytest.mark.parametrize("factory", RIGHT)
def test_the_asked_share_of_the_work_is_gone_and_the_channels_that_remain_are_named_however_often_it_is_pruned(
    factory: Callable[[], nn.Module], pruner: Pruner
) -> None:
    """Kept channels are indices into the network before, and its weights at them are the pruned ones."""
    network, image = seeded(factory), torch.zeros(1, *IMAGE)
    checkpoint, macs = pruner.start(network, factory), counted_macs(network, image)
    for times in (1, 2):
        ran = pruner.run(checkpoint, macs=0.25)
        state, _ = load_checkpoint(checkpoint)
        checkpoint, before = ran.output("checkpoint"), macs
        macs = counted_macs(pruner.rebuilt(checkpoint), image)
        assert 1 - macs / before == pytest.approx(0.25, abs=TOLERANCE)
        assert (ran.outcome.summary["macs_before"], ran.outcome.summary["macs"]) == (before, macs)
        pruned, architecture = load_checkpoint(checkpoint)
        assert len(architecture) == times
        check_kept(network, state, pruned, kept_in(architecture))


def kept_in(architecture: Architecture) -> Mapping[str, Kept]:
    """What the last of several edits says."""
    assert isinstance(architecture[-1], KeptChannels)
    return architecture[-1].modules


def check_kept(network: nn.Module, state: Any, pruned: Any, kept: Mapping[str, Kept]) -> None:
    shrunk = 0
    for path, channels in kept.items():
        module: Any = network.get_submodule(path)
        weight, bias = state[f"{path}.weight"], state.get(f"{path}.bias")
        inputs, outputs = (0, 1) if getattr(module, "transposed", False) else (1, 0)
        groups = getattr(module, "groups", 1)
        if channels.outputs is not None:
            weight = weight.index_select(outputs, torch.tensor(channels.outputs))
            bias = bias if bias is None else bias[list(channels.outputs)]
        if channels.inputs is not None and weight.ndim > 1 and weight.shape[inputs] > 1:
            first = [channel for channel in channels.inputs if channel < state[f"{path}.weight"].shape[inputs]]
            assert len(first) * groups == len(channels.inputs)
            weight = weight.index_select(inputs, torch.tensor(first))
        assert torch.equal(pruned[f"{path}.weight"], weight)
        assert bias is None or torch.equal(pruned[f"{path}.bias"], bias)
        shrunk += weight.numel() < state[f"{path}.weight"].numel()
    assert shrunk >= 2


@pytest.mark.parametrize(
    ("factory", "importance", "macs"),
    [(Plain, "taylor", 0.3), (Residual, "magnitude", 0.32), (Flattened, "taylor", 0.3), (Joined, "magnitude", 0.27)],
)
def test_channels_that_do_nothing_go_first_and_the_outputs_stay(
    factory: type[Base], importance: str, macs: float, pruner: Pruner
) -> None:
    """Half of the channels of every layer but the head are dead, so a network without them computes the same."""
    network = seeded(factory)
    with torch.no_grad():
        for path, module in network.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and path != "head":
                module.weight[::2] = 0
                if module.bias is not None:
                    module.bias[::2] = 0
            elif isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.bias, module.running_mean):
                    value[::2] = 0
        # What reads a dead channel has no use for it either.
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.shape[1] % 2 == 0:
                step = 9 if isinstance(module, nn.Linear) and module.in_features == 288 else 1
                module.weight.view(len(module.weight), -1, step, *module.weight.shape[2:])[:, ::2] = 0
    pruner.lone.data(train=Samples(24, IMAGE))
    ran = pruner.run(pruner.start(network, factory), macs=macs, importance=importance)
    images = torch.from_numpy(np.stack([image for image, _ in (Samples(24, IMAGE)[index] for index in range(24))]))
    with torch.no_grad():
        expected, actual = network(images), pruner.rebuilt(ran.output("checkpoint"))(images)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert ran.outcome.summary["removed"] == pytest.approx(macs, abs=TOLERANCE)


def test_one_slope_for_all_channels_stays_whichever_channel_goes(pruner: Pruner) -> None:
    network = seeded(Slopes)
    with torch.no_grad():
        network.b.weight[0], network.b.bias[0], network.head.weight[:, 0] = 0, 0, 0
    state, architecture = load_checkpoint(pruner.run(pruner.start(network, Slopes)).output("checkpoint"))
    assert 0 not in (kept_in(architecture)["b"].outputs or ())
    assert torch.equal(state["one.weight"], network.one.weight)


@pytest.mark.parametrize(("round_to", "macs", "least"), [(8, 0.75, 8), (16, 0.5, 16), (1, 0.87, 4)])
def test_what_remains_of_a_layer_is_a_multiple_and_never_nothing(
    round_to: int, macs: float, least: int, pruner: Pruner
) -> None:
    """The 32 channels of `deep` are all dead, and more is asked for than they have."""
    network = seeded(Wide)
    with torch.no_grad():
        network.deep.weight.zero_()
        network.b.weight.zero_()  # reads them
    ran = pruner.run(pruner.start(network, Wide), macs=macs, round_to=round_to)
    _, architecture = load_checkpoint(ran.output("checkpoint"))
    counts = {path: len(kept.outputs) for path, kept in kept_in(architecture).items() if kept.outputs is not None}
    assert all(count % round_to == 0 for count in counts.values())
    assert counts["deep"] == least


def test_a_width_that_is_no_multiple_is_made_one_or_left_as_it_is(pruner: Pruner) -> None:
    class Odd(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 24, 3, padding=1)

    network = seeded(Odd)
    with torch.no_grad():
        network.a.weight[:3] = 0
        network.b.weight *= 1000
    ran = pruner.run(pruner.start(network, Odd), macs=0.2, round_to=8)
    _, architecture = load_checkpoint(ran.output("checkpoint"))
    assert len(kept_in(architecture)["a"].outputs or ()) == 16
    assert kept_in(architecture).get("b", Kept()).outputs is None


def test_where_the_next_channels_would_remove_too_much_others_go(pruner: Pruner) -> None:
    """Half of `b` is dead and should go first, but takes 46 % of the work along; half of `c` is 23 %."""

    class Steps(Base):
        def __init__(self) -> None:
            super().__init__(16)
            self.a, self.b, self.c = (nn.Conv2d(inputs, 16, 3, padding=1) for inputs in (3, 16, 16))

        def features(self, image: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.relu(self.a(image)))))

    network = seeded(Steps)
    with torch.no_grad():
        network.b.weight[:8] = 0
        network.c.weight[:, :8] = 0
    ran = pruner.run(pruner.start(network, Steps), macs=0.23, round_to=8)
    assert ran.outcome.summary["removed"] == pytest.approx(0.2286, abs=1e-3)
    _, architecture = load_checkpoint(ran.output("checkpoint"))
    assert kept_in(architecture).keys() == {"c", "head"}


def test_modules_to_keep_keep_their_channels_and_what_is_added_to_them_too(pruner: Pruner) -> None:
    ran = pruner.run(pruner.start(seeded(Residual), Residual), macs=0.3, keep=("head", "c"))
    _, architecture = load_checkpoint(ran.output("checkpoint"))
    kept = kept_in(architecture)
    assert all(kept[path].outputs is None for path in ("a", "c", "norm", "head") if path in kept)
    assert kept["b"].outputs is not None


def test_the_same_step_gives_the_same_bytes_again(pruner: Pruner) -> None:
    pruner.lone.data(train=Samples(24, IMAGE))
    start = pruner.start(seeded(Residual), Residual)
    both = [pruner.run(start, importance="taylor").output("checkpoint").read_bytes() for _ in range(2)]
    assert both[0] == both[1]


def test_magnitude_reads_no_data(pruner: Pruner) -> None:
    pruner.lone.module("data", Made=lambda: pytest.fail("the data was asked for"))
    assert pruner.run(pruner.start(seeded(Plain), Plain)).output("checkpoint").is_file()


def test_taylor_looks_at_the_asked_number_of_training_samples_spread_over_the_split(pruner: Pruner) -> None:
    seen: list[int] = []

    class Watched(Samples):
        def __getitem__(self, index: int) -> Any:
            seen.append(index)
            return super().__getitem__(index)

    pruner.lone.data(train=Watched(1000, IMAGE))
    pruner.run(pruner.start(seeded(Plain), Plain), importance="taylor", samples=40)
    assert len(seen) == len(set(seen)) == 40
    assert max(seen) > 500


def test_two_outputs_keep_their_shapes(pruner: Pruner) -> None:
    start = pruner.start(seeded(TwoOutputs), TwoOutputs)
    ran = pruner.run(start, outputs=("scores", "mask"), keep=("head", "mask"))
    outputs = pruner.rebuilt(ran.output("checkpoint"))(torch.zeros(2, *IMAGE))
    assert [tuple(value.shape) for value in outputs.values()] == [(2, 4), (2, 2, 12, 12)]


def test_pruning_the_classes_themselves_is_refused_and_names_what_to_keep(pruner: Pruner) -> None:
    network = seeded(Plain)
    with torch.no_grad():
        network.head.weight[1] = 0  # the least important channel of all
    with pytest.raises(DataError, match=r"would change the output 'scores' from \[2, 4\] to \[2, ") as caught:
        pruner.run(pruner.start(network, Plain), keep=())
    assert "prune.keep: head" in caught.value.hint


class Multiplied(Base):
    """Depthwise with two outputs a channel."""

    def __init__(self) -> None:
        super().__init__(48)
        self.a, self.b = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 48, 3, padding=1, groups=24)

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(image)))


class JoinedGroups(Base):
    """What the groups of `c` read does not begin and end where `a` and `b` do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(3, 12, 3, padding=1)
        self.c = nn.Conv2d(36, 24, 3, padding=1, groups=4)

    def features(self, image: Tensor) -> Tensor:
        return self.c(torch.relu(torch.cat([self.a(image), self.b(image)], 1)))


class UpwardsInGroups(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.ConvTranspose2d(24, 24, 3, padding=1, groups=4)


class Scaled(Plain):
    """A factor for each channel that is no module's."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(24, 1, 1))

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.factor * self.a(image)))


class Shifted(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.rand(24, 1, 1))

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.shift + self.a(image)))


class Counting(Plain):
    """Its forward knows how many channels there are."""

    def features(self, image: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(image)).view(-1, 24, 12, 12))


CLEAR: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "multiplied": (Multiplied, "Torch-Pruning cannot prune the network"),
    "joined groups": (JoinedGroups, "Torch-Pruning cannot prune the network|'c' is a convolution in 4 groups"),
    "transposed groups": (UpwardsInGroups, "Torch-Pruning cannot prune|'b' is a transposed convolution in 4 groups"),
    "instance norm": (lambda: Normed(nn.InstanceNorm2d(24, affine=True)), "module 'norm' is a InstanceNorm2d"),
    "layer norm": (
        lambda: Normed(nn.LayerNorm([24, 12, 12])),
        "Torch-Pruning cannot prune the network|module 'norm' is a LayerNorm",
    ),
    "parameter": (Scaled, "cannot be described by its kept channels: factor differ"),
    "buffer": (Shifted, "does not run with fewer channels"),
    "counts channels": (Counting, "does not run with fewer channels"),
}


@pytest.mark.parametrize("case", CLEAR)
def test_what_cannot_be_pruned_is_said_with_what_to_keep(case: str, pruner: Pruner) -> None:
    factory, words = CLEAR[case]
    with pytest.raises(DataError, match=words) as caught:
        pruner.run(pruner.start(seeded(factory), factory))
    assert "prune.keep" in caught.value.hint


@pytest.mark.parametrize("case", ["joined groups", "layer norm", "parameter", "buffer"])
def test_keeping_what_was_named_leaves_the_rest_to_prune(case: str, pruner: Pruner) -> None:
    factory, _ = CLEAR[case]

    class Longer(nn.Module):
        """The network that cannot be pruned, behind layers that can."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 40, 3, padding=1), nn.Conv2d(40, 3, 3, padding=1)
            self.rest = factory()

        def forward(self, image: Tensor) -> Tensor:
            return self.rest(self.second(torch.relu(self.first(image))))

    ran = pruner.run(pruner.start(seeded(Longer), Longer), macs=0.1, keep=("rest", "second"))
    assert ran.outcome.summary["removed"] == pytest.approx(0.1, abs=TOLERANCE)


def test_a_share_that_cannot_be_reached_says_what_was(pruner: Pruner) -> None:
    with pytest.raises(DataError, match=r"cannot remove 60% .* the nearest reached is \d+\.\d%") as caught:
        pruner.run(pruner.start(seeded(Plain), Plain), macs=0.6, keep=("head", "a", "b"))
    assert "keep fewer modules" in caught.value.hint


def test_a_module_to_keep_that_is_not_there_is_named(pruner: Pruner) -> None:
    with pytest.raises(DataError, match=r"prune\.keep names 'hed', which is no module") as caught:
        pruner.run(pruner.start(seeded(Plain), Plain), keep=("hed",))
    assert "head" in caught.value.hint


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "importance 'taylor' needs integer class labels"),
        (lambda index: 0.5, "importance 'taylor' needs integer class labels"),
        (lambda index: [index % 4], "importance 'taylor' needs integer class labels"),
        (lambda index: index % 5, "labels of the train split run from 0 to 4, but the network has 4 classes"),
        (lambda index: -1, "labels of the train split run from -1 to -1"),
    ],
)
def test_taylor_without_class_labels_is_refused(label: Any, words: str, pruner: Pruner) -> None:
    pruner.lone.data(train=Samples(24, IMAGE, label=label))
    with pytest.raises(DataError, match=words):
        pruner.run(pruner.start(seeded(Plain), Plain), importance="taylor")


def test_taylor_counts_labels_of_every_pixel(pruner: Pruner) -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 4, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(torch.relu(self.a(image)))

    pruner.lone.data(train=Samples(24, IMAGE, label=lambda index: np.full((12, 12), index % 4)))
    ran = pruner.run(pruner.start(seeded(Pixels), Pixels), importance="taylor")
    assert ran.outcome.summary["removed"] == pytest.approx(0.4, abs=TOLERANCE)
