"""Factorize: convolutions and linear layers become two or three thinner layers that compute nearly the same.

A convolution becomes a Tucker-2 decomposition (Kim et al. 2016, "Compression of deep convolutional neural networks for
fast and low power mobile applications"): a pointwise convolution to fewer channels, a core with the kernel, and a
pointwise convolution back. Its factors are the leading singular vectors of the weights' unfoldings (HOSVD), improved
by a few sweeps of orthogonal iteration (De Lathauwer et al. 2000, "On the best rank-1 and rank-(R1, ..., RN)
approximation of higher-order tensors"). Where one pointwise layer of the two saves more alone, the other is left out:
for linear layers and 1x1 convolutions that is the truncated singular value decomposition.

One share of the energy, the sum of squared singular values, decides all ranks: each is the smallest that keeps it.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import Factorized, Ranks, kept_modules
from enginewright.errors import DataError, UserCodeError
from enginewright.networks import count_macs, outputs_of, to_tensors
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TOLERANCE", "run"]

TOLERANCE = 0.02  # how far the reached share of removed multiply-accumulates may be from the requested one
# Kernels work on blocks of eight channels or more, on processors as on GPUs: nine cost as much as sixteen, and what is
# thrown away between the two is accuracy that was free.
_BLOCK = 8
_SWEEPS = 3  # of orthogonal iteration; the energy that is kept hardly moves after the second
_HALVINGS = 40  # of the energy: after so many, no rank of any layer can still change
_OWN = {"weight", "bias"}
_INPUTS, _OUTPUTS = 1, 0  # the axes of a weight


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that can be factorized. Positions are those that one inference at batch one computes, over all calls.

    `input_energy[r - 1]` is the share of the energy that rank r keeps of the unfolding along the input channels.
    """

    path: str
    weight: torch.Tensor  # (outputs, inputs, kernel positions), double precision
    input_positions: int
    output_positions: int
    input_energy: Sequence[float]
    output_energy: Sequence[float]

    def macs(self, ranks: Ranks) -> int:
        outputs, inputs, kernel = self.weight.shape
        core_inputs, core_outputs = ranks.inputs or inputs, ranks.outputs or outputs
        first = inputs * core_inputs * self.input_positions if ranks.inputs else 0
        last = core_outputs * outputs * self.output_positions if ranks.outputs else 0
        return first + core_inputs * core_outputs * kernel * self.output_positions + last

    def ranks(self, energy: float) -> Ranks:
        """The cheapest factors that keep `energy` along each side that they thin out; none where they save nothing."""
        outputs, inputs, kernel = self.weight.shape
        into = _smallest_rank(self.input_energy, energy, channels=inputs)
        out_of = _smallest_rank(self.output_energy, energy, channels=outputs)
        # A core cannot have more independent channels on one side than it has weights for each of the other.
        both = Ranks(min(into, out_of * kernel), min(out_of, into * kernel))
        return min((Ranks(), Ranks(into), Ranks(None, out_of), both), key=self.macs)

    def saved(self, energy: float) -> int:
        return self.macs(Ranks()) - self.macs(self.ranks(energy))


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    signature = Signature.from_json(parameters["model"])
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    network = make_network(parameters["model"], step.code_folder, state, architecture)
    kept = kept_modules(network, parameters["keep"], key="factorize.keep")
    layers = _layers(network, signature, kept, step)
    before = count_macs(network, signature)
    energy = parameters["energy"] or _search(layers, before, parameters["macs"])
    chosen = {layer: ranks for layer in layers if (ranks := layer.ranks(energy)) != Ranks()}
    edit = Factorized({layer.path: ranks for layer, ranks in chosen.items()})
    factorized = copy.deepcopy(network)
    edit.apply(factorized)
    shares = [
        _load_factors(factorized.get_submodule(layer.path), network.get_submodule(layer.path), layer.weight, ranks)
        for layer, ranks in step.tracked(chosen.items(), total=len(chosen), note="decomposing")
    ]
    after = _macs_after(factorized, signature)
    _check_share(1 - after / before, parameters["macs"])
    if not chosen:
        step.warn(
            f"no layer was factorized: at an energy of {energy:g}, the factors of each would cost as much as the layer"
        )
    edited = (*architecture, edit) if chosen else architecture
    save_checkpoint(step.output("checkpoint"), factorized.state_dict(), edited)
    return Outcome(
        {
            "macs_before": before,
            "macs": after,
            "removed": round(1 - after / before, 4),
            "energy": round(energy, 6),
            "factorized": len(chosen),
            "layers_added": sum((ranks.inputs is not None) + (ranks.outputs is not None) for ranks in chosen.values()),
            "mean_energy_kept": round(sum(shares) / len(shares), 4) if shares else 1.0,
        }
    )


def _layers(network: nn.Module, signature: Signature, kept: frozenset[str], step: RunningStep) -> list[_Layer]:
    import torch

    candidates = {path: module for path, module in _candidates(network) if path not in kept}
    positions = _positions(network, candidates, signature)
    layers = []
    for path, (inputs, outputs) in step.tracked(positions.items(), total=len(positions), note="singular values"):
        whole = candidates[path].weight.detach().double()
        weight = whole.reshape(*whole.shape[:2], -1)
        spectra = [torch.linalg.svdvals(_unfolded(weight, side)).square().cumsum(0) for side in (_INPUTS, _OUTPUTS)]
        if not spectra[0][-1] > 0:
            continue  # a layer of zeros has no directions to choose from
        input_energy, output_energy = ((energy / energy[-1]).tolist() for energy in spectra)
        layers.append(_Layer(path, weight, inputs, outputs, input_energy, output_energy))
    return layers


def _candidates(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The linear layers and the convolutions that only their own call reads."""
    from torch import nn

    modules = list(network.named_modules(remove_duplicate=False))
    owners: dict[int, int] = {}
    for _, module in modules:
        for value in module.parameters(recurse=False):
            owners[id(value)] = owners.get(id(value), 0) + 1
    for path, module in modules:
        plain = type(module) in (nn.Linear, nn.Conv2d) and getattr(module, "groups", 1) == 1
        # A weight norm of the older kind leaves the class as it is, and computes the weight from others.
        if not path or not plain or not {name for name, _ in module.named_parameters(recurse=False)} <= _OWN:
            continue
        parent = network.get_submodule(path.rpartition(".")[0])
        # torch's own attention and encoder layers read the weights of their parts by name.
        if type(parent).__module__.startswith("torch.nn.") and not isinstance(parent, _plain_containers()):
            continue
        if all(owners[id(value)] == 1 for value in module.parameters(recurse=False)):
            yield path, module


def _plain_containers() -> tuple[type[nn.Module], ...]:
    from torch import nn

    return (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _positions(network: nn.Module, candidates: Mapping[str, Any], signature: Signature) -> dict[str, tuple[int, int]]:
    """How many positions each candidate reads and computes when the network runs once, for those that are called."""
    import torch

    found: dict[str, tuple[int, int]] = {}
    handles = []
    for path, module in candidates.items():
        outputs, inputs = module.weight.shape[:2]

        def count(
            _: nn.Module, given: Any, result: Any, path: str = path, inputs: int = inputs, outputs: int = outputs
        ) -> None:
            into, out_of = found.get(path, (0, 0))
            found[path] = (into + given[0].numel() // inputs, out_of + result.numel() // outputs)

        handles.append(module.register_forward_hook(count))
    with torch.no_grad():
        outputs_of(network, to_tensors(signature.example(batch=1)), signature)
    for handle in handles:
        handle.remove()
    return found


def _smallest_rank(energies: Sequence[float], energy: float, *, channels: int) -> int:
    rank = bisect_left(energies, energy) + 1
    if channels > _BLOCK:
        rank = -(-rank // _BLOCK) * _BLOCK
    return min(rank, len(energies))


def _search(layers: Sequence[_Layer], before: int, wanted: float) -> float:
    """The energy, one for all layers, at which the removed share of multiply-accumulates is nearest to `wanted`."""

    def removed(energy: float) -> float:
        return sum(layer.saved(energy) for layer in layers) / before

    low, high = 0.0, 1.0
    best = high
    for _ in range(_HALVINGS):
        energy = (low + high) / 2
        share = removed(energy)
        if abs(share - wanted) < abs(removed(best) - wanted):
            best = energy
        low, high = (low, energy) if share < wanted else (energy, high)
    return best


def _check_share(reached: float, wanted: float | None) -> None:
    if wanted is not None and abs(reached - wanted) > TOLERANCE:
        raise DataError(
            f"factorizing cannot remove {wanted:.0%} of the multiply-accumulates: the nearest reached is {reached:.1%}",
            hint="ask for what was reached, or keep fewer modules (convolutions in groups stay as they are)",
        )


def _load_factors(factors: nn.Module, layer: nn.Module, weight: torch.Tensor, ranks: Ranks) -> float:
    """Give the factors of `layer` their weights. Returns the share of the energy that they keep."""
    import torch

    core, sides = _decomposed(weight, ranks)
    kept = float(core.square().sum() / weight.square().sum())
    # A factor and the core share each direction's size evenly: int8 has one scale for all channels between the two,
    # and training one learning rate.
    for axis, side in sides.items():
        size = core.square().sum([other for other in range(3) if other != axis], keepdim=True).sqrt().sqrt()
        size[size == 0] = 1
        core, sides[axis] = core / size, side * size.flatten()
    parts: dict[str, Any] = dict(factors.named_children())
    with torch.no_grad():
        parts["core"].weight.copy_(core.reshape(parts["core"].weight.shape))
        if _INPUTS in sides:
            parts["first"].weight.copy_(sides[_INPUTS].T.reshape(parts["first"].weight.shape))
        if _OUTPUTS in sides:
            parts["last"].weight.copy_(sides[_OUTPUTS].reshape(parts["last"].weight.shape))
        if isinstance(layer.bias, torch.Tensor):
            parts["last" if _OUTPUTS in sides else "core"].bias.copy_(layer.bias)
    return kept


def _decomposed(weight: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """The core, and for each side that is thinned out its factor (channels, rank), with orthonormal columns."""
    wanted = {axis: rank for axis, rank in ((_INPUTS, ranks.inputs), (_OUTPUTS, ranks.outputs)) if rank is not None}
    sides = {axis: _leading(weight, axis, rank) for axis, rank in wanted.items()}
    for _ in range(_SWEEPS if len(wanted) > 1 else 0):
        for axis, other in ((_INPUTS, _OUTPUTS), (_OUTPUTS, _INPUTS)):
            sides[axis] = _leading(_projected(weight, other, sides[other]), axis, wanted[axis])
    core = weight
    for axis, side in sides.items():
        core = _projected(core, axis, side)
    return core, sides


def _leading(weight: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    import torch

    vectors: torch.Tensor = torch.linalg.svd(_unfolded(weight, axis), full_matrices=False)[0]
    return vectors[:, :rank]


def _unfolded(weight: torch.Tensor, axis: int) -> torch.Tensor:
    return weight.movedim(axis, 0).flatten(1)


def _projected(weight: torch.Tensor, axis: int, side: torch.Tensor) -> torch.Tensor:
    import torch

    projected: torch.Tensor = torch.tensordot(weight, side, dims=([axis], [0]))
    return projected.movedim(-1, axis)


def _macs_after(factorized: nn.Module, signature: Signature) -> int:
    try:
        return count_macs(factorized, signature)
    except UserCodeError as error:
        raise DataError(
            f"the network does not run with factors in the place of its layers: {error.message}",
            hint="its forward reads the weights or sizes of a layer: name that layer in factorize.keep",
        ) from error
