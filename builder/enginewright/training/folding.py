"""Batch norms folded into the convolutions and linear layers before them, as every backend does it: what is trained with
int8 simulated must have the weights that are quantized (Jacob et al., CVPR 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from enginewright.edits import FoldedNorms, module_at, replace_module
from enginewright.networks import checked_outputs
from enginewright.signature import Signature, largest_difference

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TOLERANCE", "fold_norms"]

TOLERANCE = 1e-5  # largest difference of an output, as a share of that output's largest magnitude


def fold_norms(network: nn.Module, signature: Signature) -> FoldedNorms:
    """Fold every batch norm that stands alone behind a layer, in place; `network` is in evaluation mode, on the CPU.

    A pair is found where a norm is given the very tensor that a layer made; it is folded only if no output changes by
    more than TOLERANCE, because the layer's result may go elsewhere, too. What cannot be folded stays.
    """
    inputs = signature.example(batch=2)
    before = checked_outputs(network, inputs, signature)
    folded: dict[str, str] = {}
    for layer, norm in _pairs(network, lambda: checked_outputs(network, inputs, signature)):
        undo = _fold(network, layer, norm)
        after = checked_outputs(network, inputs, signature)
        if all(largest_difference(after[name], before[name]) <= TOLERANCE for name in before):
            folded[layer], before = norm, after
        else:
            undo()
    return FoldedNorms(folded)


def _pairs(network: nn.Module, run: Callable[[], object]) -> list[tuple[str, str]]:
    """Layers and the norms that read them."""
    from torch import nn

    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    made: list[tuple[object, str]] = []  # holds the tensors, so that none is made where another was
    found: dict[tuple[str, str], None] = {}
    handles = []
    for path, module in network.named_modules():

        def keep(module: nn.Module, inputs: tuple[object, ...], output: object, path: str = path) -> None:
            if isinstance(module, layers):
                made.append((output, path))
            elif inputs:
                found.update({(layer, path): None for tensor, layer in made if tensor is inputs[0]})

        # Without running statistics a norm is another function for every batch.
        if isinstance(module, layers) or (isinstance(module, norms) and module.running_mean is not None):
            handles.append(module.register_forward_hook(keep))
    run()
    for handle in handles:
        handle.remove()
    return list(found)


def _fold(network: nn.Module, layer: str, norm: str) -> Callable[[], None]:
    """Fold one pair. Returns what undoes it."""
    import torch

    module: Any = module_at(network, layer)
    replaced: Any = module_at(network, norm)
    weight, bias = module.weight.detach().clone(), module.bias
    kept = None if bias is None else bias.detach().clone()
    folded_weight, folded_bias = _folded(module, replaced)

    def undo() -> None:
        replace_module(network, norm, replaced)
        module.bias = bias
        with torch.no_grad():
            module.weight.copy_(weight)
            if kept is not None:
                bias.copy_(kept)

    FoldedNorms({layer: norm}).apply(network)
    with torch.no_grad():
        module.weight.copy_(folded_weight)
        module.bias.copy_(folded_bias)
    return undo


def _folded(layer: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the layer and the norm in one, computed in double precision."""
    import torch
    from torch import nn

    factor = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * factor
    if norm.affine:
        scale = norm.weight.detach().double()
        factor, shift = factor * scale, shift * scale + norm.bias.detach().double()
    weight = layer.weight.detach().double()
    transposed = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    if transposed:  # (inputs, outputs of a group, ...): each group has output channels of its own
        groups = layer.groups
        grouped = weight.unflatten(0, (groups, -1)).transpose(1, 2)
        scaled = grouped * factor.reshape(groups, -1, *[1] * (grouped.ndim - 2))
        weight = scaled.transpose(1, 2).flatten(0, 1)
    else:
        weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double() * factor
    return weight.to(layer.weight.dtype), shift.to(layer.weight.dtype)
