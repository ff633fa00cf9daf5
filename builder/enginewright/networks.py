"""Running a torch network on the inputs that its recipe describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from enginewright.errors import DataError
from enginewright.signature import Array, Signature
from enginewright.user_code import users

if TYPE_CHECKING:
    import torch
    from torch import nn

    from enginewright.datasets import Batch

__all__ = ["checked_outputs", "class_labels", "count_macs", "outputs_of", "to_tensors"]


def to_tensors(inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(value) for name, value in inputs.items()}


def outputs_of(network: nn.Module, inputs: Mapping[str, torch.Tensor], signature: Signature) -> dict[str, torch.Tensor]:
    """Call the network with its inputs in the recipe's order; its outputs (a tensor, a sequence or a dict) by the
    recipe's names.
    """
    import torch

    with users("running the network"):
        result = network(*(inputs[name] for name in signature.inputs))
    if isinstance(result, torch.Tensor):
        result = (result,)
    if not isinstance(result, (Mapping, tuple, list)):
        raise DataError(
            f"the network gives a {type(result).__name__}", hint="return a tensor, or a tuple or dict of tensors"
        )
    if (
        isinstance(result, Mapping)
        and list(result) != list(signature.outputs)
        and set(result) == set(signature.outputs)
    ):
        raise DataError(
            f"the network gives its outputs in the order {', '.join(result)}, the recipe in the order {', '.join(signature.outputs)}",
            hint="name them in the network's order in model.outputs",
        )
    values = list(result.values()) if isinstance(result, Mapping) else list(result)
    if len(values) != len(signature.outputs):
        raise DataError(
            f"the network gives {len(values)} outputs, the recipe names {len(signature.outputs)}: {', '.join(signature.outputs)}",
            hint="correct model.outputs in the recipe",
        )
    for name, value in zip(signature.outputs, values, strict=True):
        if not isinstance(value, torch.Tensor):
            raise DataError(
                f"the network's output '{name}' is a {type(value).__name__}, not a tensor",
                hint="return a tensor, or a flat tuple or dict of tensors",
            )
    return dict(zip(signature.outputs, values, strict=True))


def checked_outputs(network: nn.Module, inputs: Mapping[str, Array], signature: Signature) -> dict[str, Array]:
    """The outputs as arrays. Raises DataError where they are not finite."""
    import torch

    with torch.no_grad():
        outputs = outputs_of(network, to_tensors(inputs), signature)
    for name, value in outputs.items():
        if not bool(torch.isfinite(value).all()):
            raise DataError(
                f"the network's output '{name}' is NaN or infinite on ordinary inputs", hint="check the weights"
            )
    return {name: value.numpy() for name, value in outputs.items()}


def class_labels(batch: Batch, scores: torch.Tensor, *, what: str, otherwise: str) -> torch.Tensor:
    """The labels of a batch of the train split, as classes of `scores`: (samples, classes) or (samples, classes, ...).

    Raises DataError where they are not that; `what` needs them, and `otherwise` says what to do without.
    """
    import torch

    labels, shape = batch.labels, tuple(scores.shape)
    if len(shape) < 2 or labels is None or labels.dtype.kind not in "iu" or labels.shape != shape[:1] + shape[2:]:
        raise DataError(f"{what} needs integer class labels in the train split", hint=otherwise)
    classes = shape[1]
    if not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"labels of the train split run from {labels.min()} to {labels.max()}, but the network has {classes} classes",
            hint="check the data factory, and the classes that the model is made with",
        )
    return torch.from_numpy(labels.astype("int64"))


def count_macs(network: nn.Module, signature: Signature) -> int:
    """Multiply-accumulates of one sample, counted by torch's FlopCounterMode (two operations each) while the network
    runs.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    inputs = to_tensors(signature.example(batch=1))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs_of(network, inputs, signature)
    return int(counter.get_total_flops()) // 2
