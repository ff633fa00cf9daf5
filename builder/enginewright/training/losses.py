"""What a student is asked for: its labels, its teacher's scores (Hinton et al. 2015) and its teacher's attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from enginewright.errors import DataError
from enginewright.networks import class_labels
from enginewright.training.features import Features, attention_distance
from enginewright.training.forward import Forward
from enginewright.training.settings import Distilling

if TYPE_CHECKING:
    import torch
    from torch import nn

    from enginewright.datasets import Batch

__all__ = ["LabelLoss", "Loss", "TeacherLoss"]


class Loss(Protocol):
    """Of a network on a batch: a mean over the samples."""

    def __call__(self, network: nn.Module, batch: Batch, /) -> torch.Tensor: ...


class LabelLoss:
    """The cross-entropy with the labels, mean over all of them."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def __call__(self, student: nn.Module, batch: Batch, /) -> torch.Tensor:
        return _label_loss(self._forward.scores(student, batch), batch)


class TeacherLoss:
    """The labels, the teacher's softened scores and its attention maps in the shares of `distilling`, mean over the
    samples.

    What is called later may be `student` in a wrapper. Raises DataError where a feature is missing in one of the
    networks, or scores or features do not fit together.
    """

    def __init__(self, forward: Forward, student: nn.Module, teacher: nn.Module, distilling: Distilling) -> None:
        self._forward, self._teacher, self._distilling = forward, teacher, distilling
        self._ours = Features(student, distilling.features, whose="student")
        self._theirs = Features(teacher, distilling.features, whose="teacher")

    def __call__(self, student: nn.Module, batch: Batch, /) -> torch.Tensor:
        import torch

        with torch.no_grad():
            wanted = self._forward.scores(self._teacher, batch)
        scores = self._forward.scores(student, batch)
        if scores.shape != wanted.shape:
            raise DataError(
                f"the student gives scores of shape {list(scores.shape)}, and the teacher {list(wanted.shape)}",
                hint="make the student with as many classes as the network that it learns from",
            )
        weight = self._distilling.weight
        softened = _softened_divergence(scores, wanted, self._distilling.temperature)
        loss = (1 - weight) * _label_loss(scores, batch) + weight * softened
        if self._distilling.features:
            ours, theirs = self._ours.take(), self._theirs.take()
            distances = [attention_distance(name, ours[name], theirs[name]) for name in self._distilling.features]
            loss = loss + self._distilling.feature_weight * torch.stack(distances).sum()
        return loss


def _label_loss(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    labels = class_labels(batch, scores, what="training", otherwise="leave out the steps that train")
    return cross_entropy(scores, labels.to(scores.device))


def _softened_divergence(scores: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL divergence from the teacher's softened scores, mean over samples and positions.

    The factor T^2 keeps the gradients' size independent of the temperature (Hinton et al. 2015, section 2).
    """
    from torch.nn.functional import kl_div, log_softmax, softmax

    divergence = kl_div(log_softmax(scores / temperature, 1), softmax(wanted / temperature, 1), reduction="sum")
    return divergence / (scores.numel() // scores.shape[1]) * temperature**2
