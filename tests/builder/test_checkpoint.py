"""Weights are read without running code, and a pruned network is rebuilt from its kept channels to the very outputs."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.builder.lone_stage import LoneStage, model_of
from torch import nn

from enginewright.checkpoint import Kept, cut_down, load_checkpoint, make_network, read_weights, save_checkpoint
from enginewright.errors import DataError, UserCodeError

WEIGHTS = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([0.5, -1.0])}


def read(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_weights(path, path.suffix))


def same(ours: Any, theirs: Any) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def as_npz(path: Path) -> None:
    np.savez(path, **{name: value.numpy() for name, value in WEIGHTS.items()})


def as_old_torch(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "w.safetensors": lambda path: save_file(WEIGHTS, path),
    "w.npz": as_npz,
    "w.pt": lambda path: torch.save(WEIGHTS, path),
    "w.pth": as_old_torch,
    "nested.pt": lambda path: torch.save({"state_dict": WEIGHTS, "epoch": 90, "best": 0.9}, path),
    "parallel.th": lambda path: torch.save(
        {"state_dict": {f"module.{name}": value for name, value in WEIGHTS.items()}}, path
    ),
    "parameters.pt": lambda path: torch.save({name: nn.Parameter(value) for name, value in WEIGHTS.items()}, path),
}


@pytest.mark.parametrize("file", WRITERS)
def test_every_way_of_keeping_weights_gives_the_same_state_dict(file: str, tmp_path: Path) -> None:
    WRITERS[file](tmp_path / file)
    assert same(read(tmp_path / file), WEIGHTS)


def test_the_prefix_of_data_parallel_training_is_dropped_only_where_all_have_it(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"module.bias": torch.ones(1), "head.bias": torch.zeros(1)}, path)
    assert set(read(path)) == {"module.bias", "head.bias"}


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("ignore")  # torch's about the protocol of the pickle
@pytest.mark.parametrize("writer", ["torch", "old torch", "pickle"])
def test_code_in_a_weights_file_is_refused_and_not_run(writer: str, tmp_path: Path) -> None:
    path, ran = tmp_path / "w.pt", tmp_path / "ran"
    bomb = {"w": torch.ones(2), "x": Bomb(ran)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"x": Bomb(ran)}))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(DataError):
        read(path)
    assert not ran.exists()


def test_a_whole_pickled_network_is_refused_with_what_to_save(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"holds more than weights \(torch\.nn\.modules\.linear\.Linear\)") as caught:
        read(tmp_path / "w.pt")
    assert "torch.save(model.state_dict(), path)" in caught.value.hint


@pytest.mark.filterwarnings("ignore")
def test_no_message_advises_to_load_a_file_unsafely(tmp_path: Path) -> None:
    """torch's and numpy's own messages do."""
    (tmp_path / "w.npz").write_bytes(pickle.dumps({"a": 1}))
    torch.save(nn.Linear(3, 2), tmp_path / "net.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and people have such files
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), str(tmp_path / "script.pt"))
    (tmp_path / "other.pt").write_bytes(pickle.dumps({"a": 1}))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError) as caught:
            read(path)
        assert "allow_pickle" not in str(caught.value)
        assert "`weights_only` to `False`" not in str(caught.value)
        assert "Re-running" not in str(caught.value)


NOT_WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty.pt": (lambda path: path.write_bytes(b""), "cannot be read as weights"),
    "empty.npz": (lambda path: path.write_bytes(b""), "cannot be read as weights"),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "cannot be read as weights"),
    "text.pt": (lambda path: path.write_text("hello world"), "cannot be read as weights: its bytes are no .pt file"),
    "text.npz": (lambda path: path.write_text("hello world"), "cannot be read as weights"),
    "text.safetensors": (lambda path: path.write_text("hello world"), "cannot be read as weights"),
    "words.npz": (lambda path: np.savez(path, w=np.array(["a"])), "cannot be read as weights"),
    "objects.npz": (lambda path: np.savez(path, w=np.array([{}], object)), "cannot be read as weights"),
    "list.pt": (lambda path: torch.save([torch.ones(2)], path), "is no state dict"),
    "nothing.pt": (lambda path: torch.save({}, path), "is no state dict"),
    "nothing.safetensors": (lambda path: save_file({}, path), "is no state dict"),
    "numbers.pt": (lambda path: torch.save({0: torch.ones(2)}, path), "is no state dict"),
    "mixed.pt": (lambda path: torch.save({"w": torch.ones(2), "epoch": 3}, path), "is no state dict"),
    "nan.pt": (lambda path: torch.save({"w": torch.tensor([1.0, torch.nan])}, path), "the tensor 'w' holds NaN"),
    "infinite.npz": (lambda path: np.savez(path, w=np.array([np.inf])), "the tensor 'w' holds NaN or infinity"),
}


@pytest.mark.parametrize("file", NOT_WEIGHTS)
def test_what_is_no_weights_is_refused_with_the_file_and_the_fault(file: str, tmp_path: Path) -> None:
    write, words = NOT_WEIGHTS[file]
    write(tmp_path / file)
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path / file)
    assert str(tmp_path / file) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("file", ["w.safetensors", "w.npz", "w.pt", "w.pth"])
def test_a_file_that_is_cut_short_anywhere_is_refused(file: str, tmp_path: Path) -> None:
    path = tmp_path / file
    WRITERS[file](path)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError):
            read(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_changed_byte_in_an_npz_is_refused_or_harmless(compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    arrays = {name: value.numpy() for name, value in WEIGHTS.items()}
    np.savez_compressed(path, **arrays) if compressed else np.savez(path, **arrays)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        try:
            state = read(path)
        except DataError:
            refused += 1
        else:  # the archive's directory of names has no checksum; the values have one
            assert {value.sum().item() for value in state.values()} <= {-0.5, 15.0}
    assert refused > len(whole) // 6


def test_a_checkpoint_reads_back_to_the_same_weights_and_architecture(tmp_path: Path) -> None:
    state = {"conv.weight": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last), "step": torch.tensor(7)}
    architecture = {"conv": Kept(outputs=(0, 2, 3, 5)), "norm": Kept(), "head": Kept(inputs=(1,), outputs=None)}
    save_checkpoint(tmp_path / "c", state, architecture)
    read_state, read_architecture = load_checkpoint(tmp_path / "c")
    assert same(read_state, state)
    assert read_architecture == architecture


def test_the_same_checkpoint_has_the_same_bytes(tmp_path: Path) -> None:
    architecture = {"b": Kept(outputs=(0,)), "a": Kept(inputs=(1,))}
    save_checkpoint(tmp_path / "1", WEIGHTS, architecture)
    save_checkpoint(tmp_path / "2", dict(reversed(WEIGHTS.items())), dict(reversed(architecture.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_checkpoint_is_plain_safetensors_without_pickle(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", WEIGHTS, {})
    assert same(read(tmp_path / "c.safetensors"), WEIGHTS)


def test_weights_that_two_names_share_are_kept_under_both(tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    save_checkpoint(tmp_path / "c", {"encoder": tied, "decoder": tied.T}, {})
    state, _ = load_checkpoint(tmp_path / "c")
    assert torch.equal(state["encoder"], state["decoder"].T)


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
        cut_down(network, {"0": kept})
        actual = network(inputs)
    assert actual.shape == wanted
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_module_that_is_cut_down_tells_its_new_size() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.PReLU(6), nn.Flatten(), nn.Linear(6, 4))
    cut = Kept(outputs=(0, 2))
    cut_down(network, {"0": Kept((1,), (0, 2)), "1": cut, "2": cut, "4": Kept((0, 2), (3,))})
    assert repr(network[0]).startswith("Conv2d(1, 2,")
    assert repr(network[1]).startswith("BatchNorm2d(2,")
    assert repr(network[2]) == "PReLU(num_parameters=2)"
    assert repr(network[4]) == "Linear(in_features=2, out_features=1, bias=True)"


@pytest.mark.parametrize(
    ("network", "architecture", "words"),
    [
        (nn.Sequential(nn.ReLU()), {"stem": Kept()}, "the network has no module 'stem'"),
        (nn.Sequential(nn.LayerNorm(4)), {"0": Kept(outputs=(1,))}, "module '0' is a LayerNorm"),
        (
            nn.Sequential(nn.Conv2d(4, 8, 3, groups=2)),
            {"0": Kept((0, 2), None)},
            "module '0' is a convolution in 2 groups",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 8, 3, groups=4)),
            {"0": Kept((0, 2), (0, 1, 4, 5))},
            "module '0' is a convolution in 4 groups",
        ),
    ],
)
def test_what_cannot_be_cut_down_is_named(network: nn.Module, architecture: dict[str, Kept], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        cut_down(network, architecture)
    assert caught.value.hint


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x))


def make(lone: LoneStage, state: dict[str, torch.Tensor], factory: Any = Net, **arguments: int) -> nn.Module:
    lone.module("model", Net=factory)
    return make_network({**model_of((3,)), "arguments": arguments}, Path("code"), state, {})


def test_the_network_has_the_factorys_arguments_the_weights_and_is_in_evaluation_mode(lone: LoneStage) -> None:
    state = Net(5).state_dict()
    network = make(lone, state, width=5)
    assert same(network.state_dict(), state)
    assert not any(module.training for module in network.modules())


def test_an_older_file_without_the_counter_of_batch_normalisation_loads(lone: LoneStage) -> None:
    state = Net().state_dict()
    del state["norm.num_batches_tracked"]
    assert torch.equal(make(lone, state).state_dict()["head.bias"], state["head.bias"])


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in Net().state_dict().items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (without("head.bias"), "it lacks head.bias"),
        ({**Net().state_dict(), "tail.bias": torch.ones(1)}, "it has tail.bias that the network has not"),
        (
            {**Net().state_dict(), "head.bias": torch.ones(7)},
            "the shapes differ: head.bias is [7] instead of [2]",
        ),
        (
            {**without("head"), "tail.bias": torch.ones(1)},
            "it lacks head.bias, head.weight; it has tail.bias that the network has not",
        ),
        (
            {"head.bias": torch.ones(2)},
            "it lacks head.weight, norm.bias, norm.running_mean, norm.running_var and 1 more",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(state: dict[str, torch.Tensor], words: str, lone: LoneStage) -> None:
    with pytest.raises(DataError) as caught:
        make(lone, state)
    assert caught.value.message == f"the weights do not fit the network of model:Net: {words}"


def test_a_factory_that_gives_no_network_is_refused(lone: LoneStage) -> None:
    with pytest.raises(DataError, match="the factory model:Net gave a dict"):
        make(lone, {}, factory=dict)


def test_a_factory_that_raises_is_shown_as_the_users(lone: LoneStage) -> None:
    with pytest.raises(UserCodeError, match="calling model:Net failed with TypeError"):
        make(lone, {}, depth=3)
