"""Prune: whole channels leave the network until the requested share of its multiply-accumulates is gone.

The channels of the least importance go first, over all layers together. How many have to go is found by bisection on
the multiply-accumulates that are counted on the pruned network itself, since a number of channels says little about
them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import Kept, KeptChannels, kept_modules
from enginewright.errors import DataError, UserCodeError, listed
from enginewright.networks import checked_outputs, count_macs
from enginewright.pruning.channel_groups import Ranking, Unit, channel_count, rank, without
from enginewright.pruning.importance import MEASURES, add_gradients
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TOLERANCE", "run"]

TOLERANCE = 0.02  # how far the reached share of removed multiply-accumulates may be from the requested one
_MOST_TRIED = 64


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
    search = _Search(network, signature, step)
    pruned = search.run(_ranked(network, signature, step).units)
    _check_rebuilds(network, pruned, signature)
    edited = (*architecture, KeptChannels(pruned.kept))
    save_checkpoint(step.output("checkpoint"), pruned.network.state_dict(), edited)
    return Outcome(
        {
            "macs_before": search.before,
            "macs": count_macs(pruned.network, signature),
            "removed": round(pruned.removed, 4),
        }
    )


def _ranked(network: nn.Module, signature: Signature, step: RunningStep) -> Ranking:
    name = step.parameters["importance"]
    measure = MEASURES[name]
    keep = kept_modules(network, step.parameters["keep"], key="prune.keep")
    network.requires_grad_(requires_grad=True)  # layers that were frozen for training have an importance, too
    add_gradients(network, step)
    ranking = rank(network, signature, measure.scorer(), round_to=step.parameters["round_to"], keep=keep)
    network.zero_grad(set_to_none=True)
    if ranking.unjudged:
        which = listed([f"'{root}'" for root in ranking.unjudged])
        what = f"importance '{name}' judges channels by {measure.judges}, and there is none at"
        if not ranking.units:
            raise DataError(f"{what} {which}: nothing can be pruned", hint="use importance: magnitude, or taylor")
        step.warn(f"{what} {which}: they keep their channels")
    return ranking


class _Search:
    """Removes the units of the least worth from one network, as many as come nearest to the requested share."""

    def __init__(self, network: nn.Module, signature: Signature, step: RunningStep) -> None:
        self.network, self.signature, self.step = network, signature, step
        self.wanted: float = step.parameters["macs"]
        self.before = count_macs(network, signature)
        self.best = Pruned(network, {}, 0.0)

    def run(self, units: Sequence[Unit]) -> Pruned:
        most = self._bisect(units)
        if self._missed_by() > TOLERANCE:
            self._fill(units, most)
        if self._missed_by() > TOLERANCE:
            raise DataError(
                f"pruning cannot remove {self.wanted:.0%} of the multiply-accumulates: the nearest reached is {self.best.removed:.1%}",
                hint=f"lower prune.round_to (it is {self.step.parameters['round_to']}), keep fewer modules, or ask for what was reached",
            )
        return self.best

    def _bisect(self, units: Sequence[Unit]) -> int:
        """The largest number of units that does not remove too much."""
        low, high = 0, len(units)
        attempts = high.bit_length()
        for attempt in range(attempts):
            middle = (low + high + 1) // 2
            if low == high or self._missed_by() < TOLERANCE / 4:
                break
            self.step.progress(attempt, attempts, f"{self.best.removed:.1%} removed")
            low, high = (middle, high) if self._removed_by(units[:middle]) <= self.wanted else (low, middle - 1)
        return low

    def _fill(self, units: Sequence[Unit], most: int) -> None:
        """Where the next unit would remove too much, one of those behind it may fit."""
        chosen = list(units[:most])
        passed_over: set[str] = set()
        for unit in units[most : most + _MOST_TRIED]:
            if unit.root in passed_over:
                continue
            if self._removed_by([*chosen, unit]) <= self.wanted:
                chosen.append(unit)
            else:
                passed_over.add(unit.root)
            if self._missed_by() <= TOLERANCE:
                break

    def _removed_by(self, units: Sequence[Unit]) -> float:
        candidate, kept = without(self.network, self.signature, units)
        removed = 1 - _macs_after(candidate, self.signature) / self.before
        if abs(removed - self.wanted) < self._missed_by():
            self.best = Pruned(candidate, kept, removed)
        return removed

    def _missed_by(self) -> float:
        return abs(self.best.removed - self.wanted)


def _macs_after(candidate: nn.Module, signature: Signature) -> int:
    try:
        return count_macs(candidate, signature)
    except UserCodeError as error:
        raise DataError(
            f"the network does not run with fewer channels: {error.message}",
            hint="its forward counts on a number of channels: take that from the tensors, or add the modules that make them to prune.keep",
        ) from error


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
            likely = [path for path in cut if channel_count(network.get_submodule(path)) in values.shape]
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
