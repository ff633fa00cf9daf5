"""Checkpoints: weights as safetensors, and the pruned architecture as data in the file's metadata (module path -> kept
channels). No pickle.

A pruned network is rebuilt from the recipe's own factory: each module named in the architecture is cut down to its kept
channels, and the weights are loaded into that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from enginewright.errors import DataError
from enginewright.user_code import call_factory

if TYPE_CHECKING:
    import torch
    from torch import nn

    State = Mapping[str, torch.Tensor]

__all__ = ["Architecture", "Kept", "cut_down", "load_checkpoint", "make_network", "read_weights", "save_checkpoint"]

_METADATA_KEY = "enginewright.architecture"


@dataclass(frozen=True)
class Kept:
    """The channels of a module that remain, as indices into the module that the factory makes; None: all of them."""

    inputs: tuple[int, ...] | None = None
    outputs: tuple[int, ...] | None = None


Architecture = Mapping[str, Kept]


def read_weights(path: Path, suffix: str) -> State:
    """Read a state dict from .safetensors, .npz or a torch file (which is read with `weights_only=True`, so that it
    runs no code).

    A state dict under the key `state_dict` is found, and the prefix `module.` of data-parallel training is dropped.
    Raises DataError where the file holds no state dict, or a tensor holds NaN or infinity.
    """
    import torch
    from safetensors.torch import load_file

    state: Any
    try:
        if suffix == ".safetensors":
            state = load_file(path)
        elif suffix == ".npz":
            state = _read_npz(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # torch's own words advise to load the file unsafely; what it met is all that is kept of them.
        met = re.search(r"GLOBAL (\S+)", str(error))
        if met is None:
            raise _unreadable(path, "") from error
        raise DataError(
            f"{path} holds more than weights ({met[1]}), and loading it would run its code",
            hint="save a plain state dict: torch.save(model.state_dict(), path), or use safetensors",
        ) from error
    except Exception as error:  # each reader meets a broken file with errors of many kinds
        raise _unreadable(path, "" if isinstance(error, (LookupError, AssertionError)) else str(error)) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items())
    ):
        raise DataError(
            f"{path} is no state dict (a mapping of names to tensors)", hint="save model.state_dict(), not the model"
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(
                f"{path}: the tensor '{name}' holds NaN or infinity",
                hint="the training has diverged: take an earlier checkpoint",
            )
    return dict(state)


def _unreadable(path: Path, why: str) -> DataError:
    """`why` is the reader's own message, of which the first sentence tells what is wrong."""
    first = why.strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return DataError(
        f"{path} cannot be read as weights: {first or f'its bytes are no {path.suffix} file'}",
        hint="is the file complete, and is its suffix right?",
    )


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    import numpy as np
    import torch

    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}


def save_checkpoint(path: Path, state: State, architecture: Architecture) -> None:
    """Write weights and architecture as one safetensors file."""
    from safetensors.torch import save_file

    kept = {module: {"inputs": item.inputs, "outputs": item.outputs} for module, item in sorted(architecture.items())}
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    save_file(tensors, path, metadata={_METADATA_KEY: json.dumps(kept, separators=(",", ":"))})


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Kept]]:
    """The state dict and the architecture of a checkpoint of ours."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        kept = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    architecture = {
        module: Kept(_channels(item["inputs"]), _channels(item["outputs"])) for module, item in kept.items()
    }
    return state, architecture


def _channels(indices: list[int] | None) -> tuple[int, ...] | None:
    return None if indices is None else tuple(indices)


def make_network(model: Mapping[str, Any], code_folder: Path, state: State, architecture: Architecture) -> nn.Module:
    """The network of the recipe's factory, cut down to `architecture`, with the weights loaded, in evaluation mode.

    Raises UserCodeError where the factory raises, DataError where the weights do not fit the network.
    """
    from torch import nn

    network = call_factory(model, code_folder)
    if not isinstance(network, nn.Module):
        raise DataError(
            f"the factory {model['factory']} gave a {type(network).__name__}", hint="it must return a torch.nn.Module"
        )
    cut_down(network, architecture)
    own = network.state_dict()
    missing, foreign = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [
        f"{name} is {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    # A counter that batch normalisation keeps while training; older files lack it, and inference does not use it.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or foreign or wrong:
        parts = [
            f"it lacks {_some(missing)}" if missing else "",
            f"it has {_some(foreign)} that the network has not" if foreign else "",
            f"the shapes differ: {_some(wrong)}" if wrong else "",
        ]
        raise DataError(
            f"the weights do not fit the network of {model['factory']}: {'; '.join(part for part in parts if part)}",
            hint="check model.arguments in the recipe, and that the weights belong to this network",
        )
    network.load_state_dict(dict(state), strict=False)
    return network.eval()


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def cut_down(network: nn.Module, architecture: Architecture) -> None:
    """Keep only the given channels of the named modules, in place."""
    from torch import nn

    modules = dict(network.named_modules())
    for path, kept in architecture.items():
        module = modules.get(path)
        if module is None:
            raise DataError(
                f"the network has no module '{path}', which the checkpoint's architecture names",
                hint="was model.py changed?",
            )
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            _cut_convolution(path, module, kept, transposed=False)
        elif isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            _cut_convolution(path, module, kept, transposed=True)
        elif isinstance(module, nn.Linear):
            _cut_parameter(module, "weight", 1, kept.inputs)
            _cut_parameter(module, "weight", 0, kept.outputs)
            _cut_parameter(module, "bias", 0, kept.outputs)
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for name in ("weight", "bias", "running_mean", "running_var"):
                _cut_parameter(module, name, 0, kept.outputs)
            module.num_features = len(kept.outputs) if kept.outputs is not None else module.num_features
        elif isinstance(module, nn.PReLU):
            _cut_parameter(module, "weight", 0, kept.outputs)
            module.num_parameters = len(module.weight)
        else:
            raise DataError(
                f"module '{path}' is a {type(module).__name__}, and its pruned channels cannot be kept as data",
                hint=f"leave it as it is: add '{path}', and the modules that feed it, to prune.keep",
            )


def _cut_convolution(path: str, module: Any, kept: Kept, *, transposed: bool) -> None:
    depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
    inputs, outputs = (1, 0) if not transposed else (0, 1)
    if module.groups > 1 and not depthwise:
        raise DataError(
            f"module '{path}' is a convolution in {module.groups} groups, and its pruned channels cannot be kept as data",
            hint=f"leave it as it is: add '{path}', and the modules that feed it, to prune.keep",
        )
    if not depthwise:
        _cut_parameter(module, "weight", inputs, kept.inputs)
    _cut_parameter(module, "weight", 0 if depthwise else outputs, kept.outputs)
    _cut_parameter(module, "bias", 0, kept.outputs)
    if kept.outputs is not None:
        module.out_channels = len(kept.outputs)
    if depthwise:
        module.groups = module.in_channels = module.out_channels
    elif kept.inputs is not None:
        module.in_channels = len(kept.inputs)


def _cut_parameter(module: nn.Module, name: str, axis: int, kept: tuple[int, ...] | None) -> None:
    import torch
    from torch import nn

    value = getattr(module, name, None)
    if kept is None or value is None:
        return
    cut = value.detach().index_select(axis, torch.tensor(kept, dtype=torch.long))
    setattr(module, name, nn.Parameter(cut) if isinstance(value, nn.Parameter) else cut)
