"""A network that computes as int8 would: the weights and inputs of its layers are rounded as a dialect rounds them.

Simulated are the products with weights that `graph.placement` quantizes; sums and pools between them stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Only the steps that train with int8 simulated import this module, whose classes derive from torch's.
# ruff: noqa: TID253
import torch
from torch import nn
from torch.nn.utils import parametrize

from enginewright.datasets import Batch
from enginewright.errors import DataError
from enginewright.graph.dialects import Dialect
from enginewright.graph.methods import Range
from enginewright.training.fake_integers import IntegerActivation, IntegerWeight
from enginewright.training.forward import Forward

__all__ = ["Simulated", "simulate"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_OPERATORS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (  # what each is exported as
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), "Conv"),
    (_TRANSPOSED, "ConvTranspose"),
    ((nn.Linear,), "Gemm"),
)
_SHARE_OUTSIDE = 0.0001  # of a batch's values, at each end of the range that it starts with
_MOST_VALUES = 1 << 20  # of a tensor that are looked at
_DEAD_RANGE = Range(0.0, 2.0**-16)  # of a tensor that is always zero, as in graph.methods


class Simulated(nn.Module):
    """`network` with int8 simulated in its layers. `groups` maps the layers that read the same tensor to the range that
    they share, as it is at the start.
    """

    def __init__(self, network: nn.Module, groups: Mapping[tuple[str, ...], Range], dialect: Dialect) -> None:
        super().__init__()
        self.network = network
        self.inputs = nn.ModuleList(IntegerActivation(start, dialect) for start in groups.values())
        self._groups = tuple(groups)
        self._plain_names: dict[str, str] = {}
        for group, activation in zip(self._groups, self.inputs, strict=True):
            for path in group:
                layer = network.get_submodule(path)
                layer.register_forward_pre_hook(_rounding(activation), with_kwargs=True)
                if not parametrize.is_parametrized(layer, "weight"):
                    self._plain_names[f"{path}.parametrizations.weight.original"] = f"{path}.weight"
                axis = 1 if isinstance(layer, _TRANSPOSED) else 0
                parametrize.register_parametrization(layer, "weight", IntegerWeight(axis, dialect.weight_limit))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.network(*inputs)

    def plain_state(self) -> dict[str, torch.Tensor]:
        """The state of the network without the simulation: its weights are not rounded."""
        return {self._plain_names.get(name, name): value for name, value in self.network.state_dict().items()}

    def ranges(self) -> dict[str, Range]:
        """The range of each layer's input."""
        found = {}
        for group, activation in zip(self._groups, self.inputs, strict=True):
            assert isinstance(activation, IntegerActivation)
            found.update(dict.fromkeys(group, activation.range()))
        return dict(sorted(found.items()))


def simulate(network: nn.Module, forward: Forward, batches: Iterable[Batch], dialect: Dialect) -> Simulated:
    """Simulate the layers that run in int8 in `dialect`; `network` is in evaluation mode. A range starts at the mean over
    the batches of the ends that leave one value in ten thousand outside.

    Raises DataError where no layer would run in int8.
    """
    groups = _groups(network, forward, dialect)
    if not groups:
        raise DataError(
            f"quantized: true finds no layer that would run in int8 for {dialect.name}: all are too small, or of other kinds",
            hint="leave out quantized: true for this network and target",
        )
    ends: dict[tuple[str, ...], list[Range]] = {group: [] for group in groups}
    seen: dict[tuple[str, ...], Range] = {}

    def watching(group: tuple[str, ...]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def watch(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            found = _ends(_input(inputs, named))
            seen[group] = found.union(seen[group]) if group in seen else found  # a layer may run more than once

        return watch

    handles = [
        network.get_submodule(path).register_forward_pre_hook(watching(group), with_kwargs=True)
        for group in groups
        for path in group
    ]
    with torch.no_grad():
        for batch in batches:
            forward.outputs(network, batch)
            for group, found in seen.items():
                ends[group].append(found)
            seen.clear()
    for handle in handles:
        handle.remove()
    return Simulated(network, {group: _mean(found) for group, found in ends.items()}, dialect)


def _groups(network: nn.Module, forward: Forward, dialect: Dialect) -> list[tuple[str, ...]]:
    """The layers that run in int8, those together that read the same tensor or a view of it."""
    readers: dict[tuple[int, int], list[str]] = {}
    grouped: set[str] = set()
    held: list[torch.Tensor] = []  # so that no tensor is made where another was

    def keeping(path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def keep(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            tensor = _input(inputs, named)
            held.append(tensor)
            if tensor.is_floating_point() and path not in grouped and _runs_in_int8(layer, output, dialect):
                readers.setdefault((tensor.data_ptr(), tensor.numel()), []).append(path)
                grouped.add(path)

        return keep

    handles = [
        module.register_forward_hook(keeping(path), with_kwargs=True)
        for path, module in network.named_modules()
        if _operator(module) in dialect.weighted
    ]
    with torch.no_grad():
        forward.outputs(network, Batch(forward.signature.example(batch=2), None))
    for handle in handles:
        handle.remove()
    return [tuple(paths) for paths in readers.values()]


def _operator(module: nn.Module) -> str | None:
    return next((name for kinds, name in _OPERATORS if isinstance(module, kinds)), None)


def _runs_in_int8(layer: nn.Module, output: torch.Tensor, dialect: Dialect) -> bool:
    """Whether a layer of a weighted kind does, as graph.rules.why_float decides it."""
    if "weight" not in dict(layer.named_parameters(recurse=False)) and not parametrize.is_parametrized(layer, "weight"):
        return False  # computed by hooks, as the old weight_norm does
    if isinstance(layer, nn.Linear):
        return output[:1].numel() // layer.out_features >= dialect.minimum_rows
    channels = min(int(getattr(layer, name)) for name in ("in_channels", "out_channels"))
    return channels >= dialect.minimum_channels


def _rounding(activation: nn.Module) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
    def rounded(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if inputs:
            return (activation(inputs[0]), *inputs[1:]), named
        return inputs, {**named, "input": activation(named["input"])}

    return rounded


def _input(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    return inputs[0] if inputs else named["input"]


def _ends(values: torch.Tensor) -> Range:
    """The ends between which all but a share of the values lie; zero is always within."""
    flat = values.detach().reshape(-1).float()
    flat = flat[:: -(-flat.numel() // _MOST_VALUES)]
    count = max(1, round(flat.numel() * _SHARE_OUTSIDE))
    low, high = -(-flat).topk(count).values[-1], flat.topk(count).values[-1]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def _mean(found: list[Range]) -> Range:
    low, high = (sum(ends) / len(found) for ends in zip(*((item.low, item.high) for item in found), strict=True))
    return Range(low, high) if high > low else _DEAD_RANGE
