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
