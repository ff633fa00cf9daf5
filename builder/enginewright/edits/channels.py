"""Kept channels: what remains of each module after channels were pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginewright.edits.modules import module_at
from enginewright.errors import DataError
from enginewright_runtime.canonical import Json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Kept", "KeptChannels"]


@dataclass(frozen=True)
class Kept:
    """The channels of a module that remain, as indices into the module before the edit; None: all of them."""

    inputs: tuple[int, ...] | None = None
    outputs: tuple[int, ...] | None = None


@dataclass(frozen=True)
class KeptChannels:
    """Only these channels of the named modules remain."""

    KIND: ClassVar[str] = "kept_channels"

    modules: Mapping[str, Kept]

    def apply(self, network: nn.Module) -> None:
        for path, kept in self.modules.items():
            _cut_down(path, module_at(network, path), kept)

    def to_json(self) -> Json:
        return {
            path: {"inputs": _listed(kept.inputs), "outputs": _listed(kept.outputs)}
            for path, kept in sorted(self.modules.items())
        }

    @classmethod
    def from_json(cls, content: Any) -> KeptChannels:
        return cls({path: Kept(_tuple(item["inputs"]), _tuple(item["outputs"])) for path, item in content.items()})


def _listed(channels: tuple[int, ...] | None) -> list[Json] | None:
    return None if channels is None else list(channels)


def _tuple(channels: list[int] | None) -> tuple[int, ...] | None:
    return None if channels is None else tuple(channels)


def _cut_down(path: str, module: nn.Module, kept: Kept) -> None:
    from torch import nn

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
    elif isinstance(module, nn.GroupNorm):
        _check_even(path, kept.outputs, channels=module.num_channels, groups=module.num_groups)
        for name in ("weight", "bias"):
            _cut_parameter(module, name, 0, kept.outputs)
        module.num_channels = len(kept.outputs) if kept.outputs is not None else module.num_channels
    elif isinstance(module, nn.PReLU):
        _cut_parameter(module, "weight", 0, kept.outputs)
        module.num_parameters = len(module.weight)
    else:
        raise _not_as_data(path, f"a {type(module).__name__}")


def _cut_convolution(path: str, module: Any, kept: Kept, *, transposed: bool) -> None:
    depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
    inputs, outputs = (1, 0) if not transposed else (0, 1)
    if depthwise:
        outputs = 0
    elif module.groups > 1 and transposed:
        raise _not_as_data(path, f"a transposed convolution in {module.groups} groups")
    else:
        _check_even(path, kept.outputs, channels=module.out_channels, groups=module.groups)
        places = _same_places(path, kept.inputs, channels=module.in_channels, groups=module.groups)
        _cut_parameter(module, "weight", inputs, places)
    _cut_parameter(module, "weight", outputs, kept.outputs)
    _cut_parameter(module, "bias", 0, kept.outputs)
    if kept.outputs is not None:
        module.out_channels = len(kept.outputs)
    if depthwise:
        module.groups = module.in_channels = module.out_channels
    elif kept.inputs is not None:
        module.in_channels = len(kept.inputs)


def _in_groups(kept: tuple[int, ...], *, channels: int, groups: int) -> list[tuple[int, ...]]:
    """The kept channels of each group, counted within the group."""
    size = channels // groups
    return [tuple(channel % size for channel in kept if channel // size == group) for group in range(groups)]


def _check_even(path: str, kept: tuple[int, ...] | None, *, channels: int, groups: int) -> None:
    """All groups keep the same number of outputs."""
    if kept is not None and len({len(places) for places in _in_groups(kept, channels=channels, groups=groups)}) > 1:
        raise _not_as_data(path, f"divided into {groups} groups, which would keep different numbers of channels")


def _same_places(path: str, kept: tuple[int, ...] | None, *, channels: int, groups: int) -> tuple[int, ...] | None:
    """The inputs that every group keeps: the same ones in all of them, since the weights have one axis for them."""
    if kept is None:
        return None
    first, *others = _in_groups(kept, channels=channels, groups=groups)
    if any(other != first for other in others):
        raise _not_as_data(path, f"a convolution in {groups} groups, which would keep different channels")
    return first


def _not_as_data(path: str, what: str) -> DataError:
    return DataError(
        f"module '{path}' is {what}, and its pruned channels cannot be kept as data",
        hint=f"leave it as it is: add '{path}', and the modules that feed it, to prune.keep",
    )


def _cut_parameter(module: nn.Module, name: str, axis: int, kept: tuple[int, ...] | None) -> None:
    import torch
    from torch import nn

    value = getattr(module, name, None)
    if kept is None or value is None:
        return
    cut = value.detach().index_select(axis, torch.tensor(kept, dtype=torch.long))
    setattr(module, name, nn.Parameter(cut) if isinstance(value, nn.Parameter) else cut)
