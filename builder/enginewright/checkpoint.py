"""Checkpoints: weights as safetensors, and the edits that make the compressed architecture (`enginewright.edits`) as
data in the file's metadata. No pickle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from enginewright.edits import Architecture, apply_edits, architecture_from_json, architecture_to_json
from enginewright.errors import DataError
from enginewright.user_code import call_factory

if TYPE_CHECKING:
    import torch
    from torch import nn

    State = Mapping[str, torch.Tensor]

__all__ = ["load_checkpoint", "make_network", "read_weights", "save_checkpoint"]

_METADATA_KEY = "enginewright.architecture"


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

    edits = json.dumps(architecture_to_json(architecture), separators=(",", ":"))
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    save_file(tensors, path, metadata={_METADATA_KEY: edits})


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], Architecture]:
    """The state dict and the architecture of a checkpoint of ours."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        edits = json.loads((file.metadata() or {}).get(_METADATA_KEY, "[]"))
    return state, architecture_from_json(edits)


def make_network(model: Mapping[str, Any], code_folder: Path, state: State, architecture: Architecture) -> nn.Module:
    """The network of the recipe's factory with the edits of `architecture` and the weights, in evaluation mode.

    Raises UserCodeError where the factory raises, DataError where the weights do not fit the network.
    """
    from torch import nn

    network = call_factory(model, code_folder)
    if not isinstance(network, nn.Module):
        raise DataError(
            f"the factory {model['factory']} gave a {type(network).__name__}", hint="it must return a torch.nn.Module"
        )
    apply_edits(network, architecture)
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
