"""Prune: whole channels leave the network until the requested share of its multiply-accumulates is gone.

Torch-Pruning's dependency graph (Fang et al., DepGraph, CVPR 2023) says which channels belong together; group
importance is the magnitude of the weights (Li et al. 2017) or the first-order Taylor term (Molchanov et al. 2019),
whose gradients come from training samples. The pruning ratio is found by bisection on the multiply-accumulates that are
counted on the pruned network itself, since a ratio of channels says little about them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.datasets import load_data, load_split
from enginewright.edits import Kept, KeptChannels
from enginewright.errors import DataError, EnginewrightError, UserCodeError
from enginewright.networks import checked_outputs, class_labels, count_macs, outputs_of, to_tensors
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TOLERANCE", "run"]

TOLERANCE = 0.02  # how far the reached share of removed multiply-accumulates may be from the requested one
_BATCH = 32
_MOST_OF_A_LAYER = 0.9  # no layer disappears altogether
# Where modules say how many channels they have.
_OUTPUT_COUNTS = ("out_channels", "out_features", "num_features", "num_parameters")
_INPUT_COUNTS = ("in_channels", "in_features", *_OUTPUT_COUNTS)


@dataclass(frozen=True)
class Pruned:
    """A pruned copy: `kept` holds the channels of each changed module that remain, as indices into the network before."""

    network: nn.Module
    kept: Mapping[str, Kept]
    removed: float  # share of the multiply-accumulates


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    signature = Signature.from_json(parameters["model"])
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    network = make_network(parameters["model"], step.code_folder, state, architecture)
    network.requires_grad_(requires_grad=True)  # layers that were frozen for training have an importance, too
    _check_kept(network, parameters["keep"])
    if parameters["importance"] == "taylor":
        _accumulate_gradients(network, signature, step)
    before = count_macs(network, signature)
    pruned = _search(network, signature, before, step)
    _check_rebuilds(network, pruned, signature)
    edited = (*architecture, KeptChannels(pruned.kept))
    save_checkpoint(step.output("checkpoint"), pruned.network.state_dict(), edited)
    return Outcome(
        {"macs_before": before, "macs": count_macs(pruned.network, signature), "removed": round(pruned.removed, 4)}
    )


def _check_kept(network: nn.Module, names: list[str]) -> None:
    modules = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in modules:
            raise DataError(
                f"prune.keep names '{name}', which is no module of the network",
                hint=f"its modules are: {', '.join(modules[:12])}, ...",
            )


def _accumulate_gradients(network: nn.Module, signature: Signature, step: RunningStep) -> None:
    """Gradients of the classification loss over training samples, summed into the parameters' `.grad`."""
    import torch
    from torch.nn.functional import cross_entropy

    split = load_split(load_data(step), "train", step)
    wanted = step.parameters["samples"]
    # Spread over the whole split: data sets are often sorted by class.
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:wanted].tolist()
    total = -(-len(order) // _BATCH)
    for batch in step.tracked(split.batches(_BATCH, order=order), total=total, note="importance"):
        outputs = outputs_of(network, to_tensors(batch.inputs), signature)
        scores = next(iter(outputs.values()))
        labels = class_labels(batch, scores, what="importance 'taylor'", otherwise="use importance: magnitude")
        loss = cross_entropy(scores, labels, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it untyped


def _search(network: nn.Module, signature: Signature, before: int, step: RunningStep) -> Pruned:
    """Bisect the channel ratio until the removed share of multiply-accumulates is the requested one."""
    wanted = step.parameters["macs"]
    low, high = 0.0, 1.0
    best: Pruned | None = None
    attempts = _channels(network).bit_length()  # after so many halvings, the ratio moves by less than a channel
    for attempt in range(attempts):
        step.progress(attempt, attempts, "searching the ratio")
        ratio = (low + high) / 2
        candidate, kept = _pruned(network, signature, ratio, step.parameters)
        removed = 1 - _macs_after(candidate, signature) / before
        if best is None or abs(removed - wanted) < abs(best.removed - wanted):
            best = Pruned(candidate, kept, removed)
        if abs(removed - wanted) < TOLERANCE / 4:
            break
        low, high = (ratio, high) if removed < wanted else (low, ratio)
    assert best is not None
    if abs(best.removed - wanted) > TOLERANCE:
        raise DataError(
            f"pruning cannot remove {wanted:.0%} of the multiply-accumulates: the nearest reached is {best.removed:.1%}",
            hint="lower prune.round_to, keep fewer modules, or ask for what was reached",
        )
    step.progress(attempts, attempts, f"{best.removed:.1%} removed")
    return best


def _channels(network: nn.Module) -> int:
    return sum(_count(module, ("out_channels", "out_features")) or 0 for module in network.modules())


def _macs_after(candidate: nn.Module, signature: Signature) -> int:
    try:
        return count_macs(candidate, signature)
    except UserCodeError as error:
        raise DataError(
            f"the network does not run with fewer channels: {error.message}",
            hint="its forward counts on a number of channels: take that from the tensors, or add the modules that make them to prune.keep",
        ) from error


def _pruned(
    network: nn.Module, signature: Signature, ratio: float, parameters: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Kept]]:
    """A copy of the network with `ratio` of its channels gone, the least important first, over all layers together."""
    candidate = copy.deepcopy(network)
    for mine, theirs in zip(candidate.parameters(), network.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    try:
        kept = _prune_in_place(candidate, signature, ratio, parameters)
    except EnginewrightError:
        raise
    except Exception as error:  # what Torch-Pruning cannot follow, it meets with assertions and index errors
        raise DataError(
            f"Torch-Pruning cannot prune the network: {type(error).__name__}: {error}",
            hint="add the modules of kinds that are rare (grouped convolutions, recurrent layers), and what feeds them, to prune.keep",
        ) from error
    candidate.zero_grad(set_to_none=True)
    return candidate.eval(), kept


def _prune_in_place(
    candidate: nn.Module, signature: Signature, ratio: float, parameters: Mapping[str, Any]
) -> dict[str, Kept]:
    import torch_pruning

    importance = {
        "taylor": torch_pruning.importance.GroupTaylorImportance,
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
    }[parameters["importance"]]()
    modules = dict(candidate.named_modules())
    pruner = torch_pruning.pruner.BasePruner(
        candidate,
        tuple(to_tensors(signature.example(batch=1)).values()),
        importance=lambda group: _without_ties(importance(group)),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=_MOST_OF_A_LAYER,
        round_to=parameters["round_to"],
        ignored_layers=[modules[name] for name in parameters["keep"]],
    )
    kept = _Kept(candidate)
    for group in pruner.step(interactive=True):
        for dependency, channels in group:
            kept.remove(
                dependency.target.module, channels, outputs=pruner.DG.is_out_channel_pruning_fn(dependency.handler)
            )
        group.prune()
    return kept.channels()


def _without_ties(importance: torch.Tensor | None) -> torch.Tensor | None:
    """Channels that do nothing all have the importance 0, and would go all at once or not at all."""
    import torch

    return None if importance is None else importance + 1e-30 * torch.arange(len(importance))


class _Kept:
    """Follows which channels of each module remain while groups are pruned one after the other."""

    def __init__(self, network: nn.Module) -> None:
        self._paths = {module: path for path, module in network.named_modules()}
        self._inputs: dict[str, list[int]] = {}
        self._outputs: dict[str, list[int]] = {}

    def remove(self, module: nn.Module, channels: list[int], *, outputs: bool) -> None:
        """`channels` are indices into what the module has now."""
        path = self._paths.get(module)
        if path is None:
            return  # an operation of the graph (an addition, a reshape), which has no weights
        if getattr(module, "num_parameters", 0) == 1:
            return  # a PReLU with one slope for all channels
        names = _OUTPUT_COUNTS if outputs else _INPUT_COUNTS
        size = _count(module, names)
        if size is None:
            raise DataError(
                f"module '{path}' is a {type(module).__name__}, and its pruned channels cannot be kept as data",
                hint=f"leave it as it is: add '{path}', and the modules that feed it, to prune.keep",
            )
        side = self._outputs if outputs else self._inputs
        gone = set(channels)
        before = side.get(path, list(range(size)))
        side[path] = [channel for position, channel in enumerate(before) if position not in gone]

    def channels(self) -> dict[str, Kept]:
        return {
            path: Kept(_tuple(self._inputs.get(path)), _tuple(self._outputs.get(path)))
            for path in sorted({*self._inputs, *self._outputs})
        }


def _count(module: nn.Module, names: tuple[str, ...]) -> int | None:
    return next((int(getattr(module, name)) for name in names if hasattr(module, name)), None)


def _tuple(channels: list[int] | None) -> tuple[int, ...] | None:
    return None if channels is None else tuple(channels)


def _check_rebuilds(network: nn.Module, pruned: Pruned, signature: Signature) -> None:
    """The outputs must keep their shapes, and the kept channels say it all: cutting the network down by them gives the
    very weights and outputs of the pruned one.
    """
    import torch

    inputs = signature.example(batch=2)
    before, after = (checked_outputs(item, inputs, signature) for item in (network, pruned.network))
    for name, values in before.items():
        if after[name].shape != values.shape:
            cut = [path for path, kept in pruned.kept.items() if kept.outputs is not None]
            likely = [path for path in cut if _count(network.get_submodule(path), _OUTPUT_COUNTS) in values.shape]
            raise DataError(
                f"pruning would change the output '{name}' from {list(values.shape)} to {list(after[name].shape)}",
                hint=f"add the module that makes it to prune.keep: {' or '.join(likely or cut)}",
            )
    rebuilt = copy.deepcopy(network)
    KeptChannels(pruned.kept).apply(rebuilt)
    ours, theirs = rebuilt.state_dict(), pruned.network.state_dict()
    differing = [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]
    if differing:
        raise DataError(
            f"the pruned network cannot be described by its kept channels: {', '.join(differing[:4])} differ",
            hint="add these modules, and what shares their channels, to prune.keep",
        )
    again = checked_outputs(rebuilt.eval(), inputs, signature)
    if any(not np.array_equal(again[name], values) for name, values in after.items()):
        raise DataError("the network that is rebuilt from its kept channels gives other outputs than the pruned one")
