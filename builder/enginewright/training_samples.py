"""What steps that judge a network by training samples have in common: which samples, and the loss of the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginewright.datasets import Batch, Split
from enginewright.networks import class_labels, outputs_of, to_tensors
from enginewright.signature import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["spread", "summed_loss"]


def spread(split: Split, count: int) -> list[int]:
    """The indices of `count` samples, or of all where there are fewer: drawn from the whole split, since data sets are
    often sorted by class, and the same ones every time.
    """
    import torch

    return torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count].tolist()


def summed_loss(network: nn.Module, batch: Batch, signature: Signature, *, what: str, otherwise: str) -> torch.Tensor:
    """The cross entropy of the network's first output, summed over the samples and, where it has some, positions.

    Raises DataError without class labels: `what` needs them, and `otherwise` says what to do without.
    """
    from torch.nn.functional import cross_entropy

    scores = next(iter(outputs_of(network, to_tensors(batch.inputs), signature).values()))
    labels = class_labels(batch, scores, what=what, otherwise=otherwise)
    return cross_entropy(scores, labels, reduction="sum")
