"""Sparsify: of every four weights along the input channels, the two smallest become zero (Mishra et al. 2021,
"Accelerating sparse deep neural networks"), the pattern that the sparse units of NVIDIA GPUs from Ampere on compute at
twice the rate.

The structure does not change, and only an engine with sparse kernels is faster for it. What may be expected is said in a
warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import Sparse, kept_modules
from enginewright.errors import DataError
from enginewright.running import Outcome, RunningStep

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["run"]

_GROUP, _ZEROS = 4, 2
# Sparse kernels gain only where a product is large enough to wait for its weights.
_PAYS_FROM_CHANNELS = 256
_WITHOUT_SPARSE_KERNELS = ("onnxruntime", "openvino")


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    network = make_network(parameters["model"], step.code_folder, state, architecture)
    kept = kept_modules(network, parameters["keep"], key="sparsify.keep")
    layers = _layers(network)
    reasons = {path: "sparsify.keep names it" if path in kept else _why_not(layer) for path, layer in layers.items()}
    sparse = tuple(path for path, reason in reasons.items() if not reason)
    if not sparse:
        raise DataError(f"no layer can be made sparse: {_grouped(reasons)}", hint="leave out the step 'sparsify'")
    before, after = 0.0, 0.0
    for path in step.tracked(sparse, total=len(sparse), note="choosing zeros"):
        weight = layers[path].weight
        before += float(weight.detach().double().square().sum())
        _set_zeros(weight)
        after += float(weight.detach().double().square().sum())
    if len(sparse) < len(layers):
        step.warn(
            f"{len(layers) - len(sparse)} of {len(layers)} layers stay dense: "
            f"{_grouped({path: reason for path, reason in reasons.items() if reason})}"
        )
    large = sum(min(layers[path].weight.shape[:2]) >= _PAYS_FROM_CHANNELS for path in sparse)
    step.warn(_expectation(parameters["backend"], large=large, sparse=len(sparse)))
    save_checkpoint(step.output("checkpoint"), network.state_dict(), (*architecture, Sparse(sparse)))
    return Outcome(
        {
            "sparse_layers": len(sparse),
            "dense_layers": len(layers) - len(sparse),
            "layers_with_256_channels": large,
            "energy_kept": round(after / before, 4) if before else 1.0,
        }
    )


def _layers(network: nn.Module) -> dict[str, Any]:
    """The convolutions and linear layers by path; what subclasses compute with the weight is no matter here."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return {path: module for path, module in network.named_modules() if isinstance(module, (_ConvNd, nn.Linear))}


def _why_not(layer: Any) -> str:
    """Why a layer stays dense, as a clause; empty where it can be sparse."""
    if "weight" not in dict(layer.named_parameters(recurse=False)):
        return "the weight is computed from others"
    if getattr(layer, "transposed", False):
        return "no sparse kernel for transposed convolutions"
    if getattr(layer, "groups", 1) > 1:
        return "depthwise or in groups"
    inputs = layer.weight.shape[1]
    return f"{inputs} input channels, no multiple of {_GROUP}" if inputs % _GROUP else ""


def _grouped(reasons: Mapping[str, str]) -> str:
    """Reasons with the layers that they hold for, each reason once."""
    layers: dict[str, list[str]] = {}
    for path, reason in reasons.items():
        layers.setdefault(reason, []).append(path or "the network itself")
    return "; ".join(
        f"{', '.join(paths[:4])}{f' and {len(paths) - 4} more' if len(paths) > 4 else ''} ({reason})"
        for reason, paths in layers.items()
    )


def _set_zeros(weight: torch.Tensor) -> None:
    """In place: in every group of four input channels, for each output channel and kernel position, the two smallest
    magnitudes become zero; of equal ones, those of the first channels.
    """
    import torch

    with torch.no_grad():
        rows = weight.movedim(1, -1)
        groups = rows.reshape(*rows.shape[:-1], -1, _GROUP)
        smallest = groups.abs().argsort(dim=-1, stable=True)[..., :_ZEROS]
        mask = torch.ones_like(groups).scatter(-1, smallest, 0.0)
        weight.mul_(mask.flatten(-2).movedim(-1, 1))


def _expectation(backend: str, *, large: int, sparse: int) -> str:
    if backend in _WITHOUT_SPARSE_KERNELS:
        return f"2:4 sparsity brings no speed on this target: {backend} has no sparse kernels and multiplies the zeros, too"
    return (
        f"2:4 sparsity seldom saves more than 15 % of the latency, and only in layers of {_PAYS_FROM_CHANNELS} channels "
        f"or more: {large or 'none'} of the {sparse} sparse layers reach that on both sides"
    )
