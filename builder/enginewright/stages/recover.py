"""Recover: fine-tuning after pruning, with distillation from the network as it came (Hinton et al. 2015). The best
epoch by validation wins.

AdamW with a linear warm-up and a cosine schedule. Where the CPU has bfloat16 matrix units the forward and backward
passes use them (autocast), with the weights in float32; elsewhere everything is
float32.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.datasets import Batch, Split, load_data, load_split
from enginewright.errors import DataError
from enginewright.metrics import make_metric
from enginewright.networks import class_labels, outputs_of, to_tensors
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["run"]

_WARM_UP = 0.05  # share of all updates
_VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Distillation:
    """`weight` is the share of the loss that asks for the teacher's softened scores; the rest asks for the labels."""

    teacher: nn.Module
    temperature: float
    weight: float


def run(step: RunningStep) -> Outcome:
    import torch

    parameters = step.parameters
    torch.manual_seed(parameters["seed"])
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    student = make_network(parameters["model"], step.code_folder, state, architecture)
    distillation = None
    if parameters["distill"] is not None:
        teacher = make_network(parameters["model"], step.code_folder, *load_checkpoint(step.inputs["teacher"]))
        distillation = Distillation(_channels_last(teacher), **parameters["distill"])
    data = load_data(step)
    training, validation = load_split(data, "train", step), load_split(data, "validation", step)
    trainer = _Trainer(
        step, student, distillation, updates=parameters["epochs"] * -(-len(training) // parameters["batch_size"])
    )
    before = trainer.validate(validation)
    best, best_epoch = before, 0
    best_state = {name: value.clone() for name, value in student.state_dict().items()}
    curve = [{"epoch": 0, "loss": None, "validation": before}]
    for epoch in range(1, parameters["epochs"] + 1):
        loss = trainer.train(training, epoch=epoch)
        accuracy = trainer.validate(validation)
        step.say(f"epoch {epoch} of {parameters['epochs']}: loss {loss:.3f}, validation {accuracy:.4f}")
        curve.append({"epoch": epoch, "loss": loss, "validation": accuracy})
        if accuracy > best:
            best, best_epoch = accuracy, epoch
            best_state = {name: value.clone() for name, value in student.state_dict().items()}
    if best_epoch == 0:
        step.warn(f"no epoch of '{step.name}' was better than the weights it began with ({before:.4f}): those are kept")
    save_checkpoint(step.output("checkpoint"), best_state, architecture)
    step.output("curve").write_text(json.dumps(curve))
    return Outcome(
        {"before": round(before, 4), "best": round(best, 4), "best_epoch": best_epoch, "epochs": parameters["epochs"]}
    )


class _Trainer:
    """One student with its optimizer and schedule; the same for every epoch."""

    def __init__(
        self, step: RunningStep, student: nn.Module, distillation: Distillation | None, *, updates: int
    ) -> None:
        import torch

        self.parameters = step.parameters
        self.signature = Signature.from_json(self.parameters["model"])
        self.student, self.distillation = _channels_last(student), distillation
        self.step, self.updates, self.done = step, updates, 0
        self.random = np.random.default_rng(self.parameters["seed"])
        decayed = [value for value in student.parameters() if value.ndim > 1]
        plain = [value for value in student.parameters() if value.ndim <= 1]  # biases and norms are not decayed
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.parameters["weight_decay"]},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self.parameters["learning_rate"],
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def train(self, split: Split, *, epoch: int) -> float:
        """One pass over the training split in a new order. Returns the mean loss."""
        self.student.train()
        size = self.parameters["batch_size"]
        losses: list[float] = []
        for batch in split.batches(size, order=self.random.permutation(len(split)).tolist()):
            if len(batch) == 1:
                continue  # batch normalisation cannot train on a single sample
            loss = self._loss(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DataError(f"the loss became {value} in epoch {epoch}", hint="lower recover.learning_rate")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it untyped
            self.optimizer.step()
            self.schedule.step()
            losses.append(value)
            self.done += 1
            note = f"epoch {epoch}/{self.parameters['epochs']}, loss {np.mean(losses[-50:]):.3f}"
            self.step.progress(min(self.done, self.updates), self.updates, note)
        if not losses:
            raise DataError(
                f"no batch of the split 'train' has two samples: there are {len(split)}, in batches of {size}",
                hint="raise recover.batch_size, or give more training data",
            )
        return float(np.mean(losses))

    def validate(self, split: Split) -> float:
        """The recipe's metric on the validation split."""
        import torch

        self.student.eval()
        metric = make_metric(self.parameters["metric"], self.step.code_folder)
        with torch.no_grad():
            for batch in split.batches(_VALIDATION_BATCH):
                outputs = self._outputs(self.student, batch)
                metric.update({name: value.float().numpy() for name, value in outputs.items()}, batch.labels, None)
        value = metric.score().value
        self.step.progress(min(self.done, self.updates), self.updates, f"validation {value:.4f}")
        return value

    def _loss(self, batch: Batch) -> torch.Tensor:
        import torch
        from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

        scores = self._scores(self.student, batch)
        labels = class_labels(batch, scores, what="recover", otherwise="leave out the step 'recover'")
        loss = cross_entropy(scores, labels)
        if self.distillation is None:
            return loss
        temperature, weight = self.distillation.temperature, self.distillation.weight
        with torch.no_grad():
            wanted = softmax(self._scores(self.distillation.teacher, batch) / temperature, 1)
        # The factor T^2 keeps the gradients' size independent of the temperature (Hinton et al. 2015, section 2).
        divergence = kl_div(log_softmax(scores / temperature, 1), wanted, reduction="sum")
        softened = divergence / labels.numel() * temperature**2
        return (1 - weight) * loss + weight * softened

    def _scores(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        return next(iter(self._outputs(network, batch).values())).float()

    def _outputs(self, network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=self.parameters["precision"] == "bfloat16"):
            inputs = to_tensors(batch.inputs)
            last = {
                name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
                for name, value in inputs.items()
            }
            return outputs_of(network, last, self.signature)

    def _rate(self, update: int) -> float:
        """The learning rate's factor: linear warm-up, then a half cosine down to nothing."""
        warm_up = max(1, round(self.updates * _WARM_UP))
        if update < warm_up:
            return (update + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (update - warm_up) / max(1, self.updates - warm_up)))


def _channels_last(network: nn.Module) -> nn.Module:
    """The layout that the CPU's convolution kernels want; convolutions in three dimensions have none of this name."""
    import torch

    if any(value.ndim == 5 for value in network.parameters()):
        return network
    moved: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return moved
