"""Importance: six measures of what each channel of a network is worth.

They are Torch-Pruning's classes. Each judges all layers that have a part in a channel, divides a layer's values by their
mean, and averages over the layers:

taylor      change of the loss to first order: the product of weight and gradient (Molchanov et al., "Importance
            Estimation for Neural Network Pruning", CVPR 2019)
hessian     change of the loss to second order (LeCun et al., "Optimal Brain Damage", NIPS 1989), where the mean square of
            the gradients of single samples, the empirical Fisher information, stands for the second derivative
magnitude   squared weights (after Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)
lamp        squared weights as a share of all in their layer that are no smaller (Lee et al., "Layer-Adaptive Sparsity
            for the Magnitude-based Pruning", ICLR 2021)
fpgm        distance to the other filters: those in their midst can be made up for by the others (He et al., "Filter
            Pruning via Geometric Median", CVPR 2019)
batch_norm  scale of the batch normalization (Liu et al., "Learning Efficient Convolutional Networks through Network
            Slimming", ICCV 2017)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from enginewright.datasets import load_data, load_split
from enginewright.running import RunningStep
from enginewright.training_samples import spread, summed_loss

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["MEASURES", "Measure", "Scorer", "add_gradients"]

Scorer: TypeAlias = "Callable[[Any], torch.Tensor | None]"

_BATCH = 32


@dataclass(frozen=True)
class Measure:
    """`library_class` is its name in torch_pruning.importance, `judges` what it looks at, and `gradients` of which kind
    it needs them in the parameters' `.grad`, if at all.
    """

    library_class: str
    judges: str
    gradients: Literal["", "sum", "mean square"] = ""

    def scorer(self) -> Scorer:
        """Gives the values of a group's channels, or None where nothing in the group is judged."""
        from torch_pruning.pruner import importance

        made: Scorer = getattr(importance, self.library_class)()
        return made


MEASURES: Mapping[str, Measure] = {
    "taylor": Measure("GroupTaylorImportance", "weights that take part in the loss", "sum"),
    "hessian": Measure("GroupHessianImportance", "weights that take part in the loss", "mean square"),
    "magnitude": Measure("GroupMagnitudeImportance", "weights"),
    "lamp": Measure("LAMPImportance", "weights"),
    "fpgm": Measure("FPGMImportance", "filters"),
    "batch_norm": Measure("BNScaleImportance", "batch normalization with a scale"),
}


def add_gradients(network: nn.Module, step: RunningStep) -> None:
    """Fill the parameters' `.grad` with what the step's `importance` needs, from `samples` training samples.

    Raises DataError without class labels.
    """
    name = step.parameters["importance"]
    wanted = MEASURES[name].gradients
    if not wanted:
        return
    split = load_split(load_data(step), "train", step)
    order = spread(split, step.parameters["samples"])
    size = _BATCH if wanted == "sum" else 1  # a square is taken of each sample's own gradient
    batches = split.batches(size, order=order)
    losses = (
        summed_loss(network, batch, split.signature, what=f"importance '{name}'", otherwise="use importance: magnitude")
        for batch in step.tracked(batches, total=-(-len(order) // size), note="importance")
    )
    if wanted == "sum":
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it untyped
    else:
        _mean_squares(network, losses, samples=len(order))


def _mean_squares(network: nn.Module, losses: Iterable[torch.Tensor], *, samples: int) -> None:
    """Torch-Pruning offers to collect these, but what it keeps are the squares of the last sample."""
    squares: dict[nn.Parameter, torch.Tensor] = {}
    for loss in losses:
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it untyped
        for parameter in network.parameters():
            if parameter.grad is not None:
                square = parameter.grad.square() / samples
                squares[parameter] = square if parameter not in squares else squares[parameter].add_(square)
    for parameter, square in squares.items():
        parameter.grad = square
