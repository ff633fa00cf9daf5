"""One network with its optimizer and its moving average: an epoch of training, a validation, and where it stands."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from enginewright.datasets import Split
from enginewright.errors import DataError
from enginewright.metrics import make_metric
from enginewright.running import RunningStep
from enginewright.training.average import MovingAverage
from enginewright.training.forward import Forward
from enginewright.training.losses import Loss
from enginewright.training.optimizer import Optimizer
from enginewright.training.resuming import part_of
from enginewright.training.settings import Settings
from enginewright.training.team import Team
from enginewright.training.threads import Threads

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Trainer", "seed_everything"]

_VALIDATION_BATCH = 64
_SHOWN_LOSSES = 50


class Trainer:
    """The same for every epoch. `after_update` is called after each update of the weights."""

    def __init__(
        self,
        step: RunningStep,
        settings: Settings,
        team: Team,
        network: nn.Module,
        *,
        forward: Forward,
        loss: Loss,
        training: Split,
        after_update: Callable[[], None],
    ) -> None:
        import torch

        self.network, self._loss = network, team.together(network, loss)
        self._step, self._settings, self._team = step, settings, team
        self._forward, self._training = forward, training
        self._optimizer = Optimizer(
            network,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            updates=settings.epochs * len(self._batches(0)),
            after_update=after_update,
        )
        self._average = MovingAverage(network, settings.ema)
        self._threads = Threads(torch.get_num_threads(), torch.set_num_threads)

    def train(self, epoch: int) -> float:
        """One pass over the training split in an order of its own. Returns the mean loss."""
        # Anew for every epoch, so that one that goes on after an interruption is as it would have been without.
        seed_everything(self._settings.seed, epoch, self._team.rank)
        self.network.train()
        losses: list[float] = []
        self._threads.begin_epoch()
        for indices in self._batches(epoch):
            with self._threads.for_update():
                losses.append(self._update(indices, epoch))
            note = f"epoch {epoch}/{self._settings.epochs}, loss {np.mean(losses[-_SHOWN_LOSSES:]):.3f}"
            self._step.progress(self._optimizer.done, self._optimizer.updates, note)
        return float(np.mean(losses))

    def _update(self, indices: Sequence[int], epoch: int) -> float:
        """One batch: its loss, and new weights."""
        share = self._team.share(indices)
        (batch,) = self._training.batches(len(share), order=share)
        loss = self._loss(batch) * self._team.weight(indices)
        value = self._team.mean(loss.detach())
        if not math.isfinite(value):
            raise DataError(f"the loss became {value} in epoch {epoch}", hint="lower the step's learning_rate")
        self._optimizer.update(loss)
        self._average.update()
        return value

    def validate(self, split: Split) -> float:
        """The recipe's metric on the validation split, of the moving average."""
        import torch

        self.network.eval()
        metric = make_metric(self._step.parameters["metric"], self._step.code_folder)
        with torch.no_grad(), self._average.in_place():
            for batch in split.batches(_VALIDATION_BATCH):
                outputs = self._forward.outputs(self.network, batch)
                arrays = {name: value.float().cpu().numpy() for name, value in outputs.items()}
                metric.update(arrays, batch.labels, None)
        value = metric.score().value
        self._step.progress(self._optimizer.done, self._optimizer.updates, f"validation {value:.4f}")
        return value

    def averaged(self) -> dict[str, torch.Tensor]:
        """A copy of what validation sees: weights and buffers."""
        with self._average.in_place():
            return {name: value.clone() for name, value in self.network.state_dict().items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that `restore` needs."""
        parts = {
            "network": self.network.state_dict(),
            "average": self._average.tensors,
            "optimizer": self._optimizer.tensors(),
        }
        return {f"{part}/{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], *, epoch: int) -> None:
        """Go on after `epoch`, with the tensors of then."""
        done = epoch * len(self._batches(0))
        for name, value in self.network.state_dict().items():
            value.copy_(tensors[f"network/{name}"])
        self._average.restore(part_of(tensors, "average"), updates=done)
        self._optimizer.restore(part_of(tensors, "optimizer"), done=done)

    def _batches(self, epoch: int) -> list[Sequence[int]]:
        """The samples of each batch of an epoch. Left out is a last batch in which a process would have one sample or
        none: batch normalisation cannot train on a single one.
        """
        count, size, least = len(self._training), self._settings.batch_size, 2 * self._team.size
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(count).tolist()
        batches = [order[start : start + size] for start in range(0, count, size)]
        whole = [batch for batch in batches if len(batch) >= least]
        if not whole:
            of_each = f" for each of {self._team.size} processes" if self._team.size > 1 else ""
            raise DataError(
                f"no batch of the split 'train' has two samples{of_each}: there are {count}, in batches of {size}",
                hint="raise the step's batch_size, or give more training data",
            )
        return whole


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Start every global source of random numbers anew: torch's for dropout, the others for data that is augmented."""
    import torch

    first, second, third = (int(word) for word in np.random.SeedSequence([seed, epoch, rank]).generate_state(3))
    torch.manual_seed(first)
    random.seed(second)
    np.random.seed(third)  # the recipe's code may use the old interface
