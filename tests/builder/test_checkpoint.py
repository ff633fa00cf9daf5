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

from enginewright.checkpoint import load_checkpoint, make_network, read_weights, save_checkpoint
from enginewright.edits import Kept, KeptChannels, RemovedBlocks
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
    kept = {"conv": Kept(outputs=(0, 2, 3, 5)), "norm": Kept(), "head": Kept(inputs=(1,), outputs=None)}
    architecture = (KeptChannels(kept), RemovedBlocks(("body.1", "body.3")), KeptChannels({"conv": Kept((0,), (1,))}))
    save_checkpoint(tmp_path / "c", state, architecture)
    read_state, read_architecture = load_checkpoint(tmp_path / "c")
    assert same(read_state, state)
    assert read_architecture == architecture


def test_the_same_checkpoint_has_the_same_bytes(tmp_path: Path) -> None:
    kept = {"b": Kept(outputs=(0,)), "a": Kept(inputs=(1,))}
    save_checkpoint(tmp_path / "1", WEIGHTS, (KeptChannels(kept),))
    save_checkpoint(tmp_path / "2", dict(reversed(WEIGHTS.items())), (KeptChannels(dict(reversed(kept.items()))),))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_checkpoint_is_plain_safetensors_without_pickle(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", WEIGHTS, ())
    assert same(read(tmp_path / "c.safetensors"), WEIGHTS)


def test_weights_that_two_names_share_are_kept_under_both(tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    save_checkpoint(tmp_path / "c", {"encoder": tied, "decoder": tied.T}, ())
    state, _ = load_checkpoint(tmp_path / "c")
    assert torch.equal(state["encoder"], state["decoder"].T)


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x))


def make(lone: LoneStage, state: dict[str, torch.Tensor], factory: Any = Net, **arguments: int) -> nn.Module:
    lone.module("model", Net=factory)
    return make_network({**model_of((3,)), "arguments": arguments}, Path("code"), state, ())


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
