"""The whole of a training: networks and data are loaded, epochs are run and validated, the best is kept.

What is kept is the network of the epoch with the best validation, the one that it began with included. Where int8 is
simulated, every validation is of the network in simulated int8, and what is kept are its weights as they were before
rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.datasets import Split, load_data, load_split
from enginewright.edits import Architecture, hold_zeros
from enginewright.graph.learned_ranges import module_ranges_to_json
from enginewright.running import RunningStep
from enginewright.signature import Signature
from enginewright.training.folding import fold_norms
from enginewright.training.forward import Forward, channels_last
from enginewright.training.losses import LabelLoss, Loss, TeacherLoss
from enginewright.training.resuming import Point, Progress, Unfinished
from enginewright.training.settings import Settings
from enginewright.training.team import ALONE, Team
from enginewright.training.trainer import Trainer, seed_everything
from enginewright_runtime.canonical import Json, canonical_bytes, sha256_file, sha256_hex

if TYPE_CHECKING:
    from torch import nn

    from enginewright.training.simulation import Simulated

__all__ = ["train"]

_BATCHES_FOR_RANGES = 8


def train(step: RunningStep, team: Team = ALONE) -> dict[str, Json]:
    """Train the step's checkpoint as its parameters say, and write its outputs. Returns the summary.

    One of several processes gives its place in the `team`; only the first writes, and has a summary.
    """
    settings = Settings.from_json(step.parameters)
    seed_everything(settings.seed)
    data = load_data(step)
    training, validation = load_split(data, "train", step), load_split(data, "validation", step)
    student = _load_student(step, settings, team, training)
    trainer = _trainer(step, settings, team, student, training)
    unfinished = Unfinished(step.unfinished, _identity(step))
    run = unfinished.load(warn=step.warn)
    if run is not None:
        trainer.restore(run.trainer, epoch=run.epoch)
        step.say(f"goes on after epoch {run.epoch} of {settings.epochs}")
    else:
        run = _first(trainer, validation) if team.leads else Progress()
    for epoch in range(run.epoch + 1, settings.epochs + 1):
        loss = trainer.train(epoch)
        if team.leads:
            accuracy = trainer.validate(validation)
            run = _next(run, trainer, Point(epoch, loss, accuracy))
            unfinished.save(run)
            step.say(f"epoch {epoch} of {settings.epochs}: loss {loss:.3f}, validation {accuracy:.4f}")
    return _keep(step, student, run) if team.leads else {}


@dataclass(frozen=True)
class _Student:
    """`network` is what is trained: that of the checkpoint with `architecture`, or its simulation in int8.
    `after_update` restores what an update must not change.
    """

    network: nn.Module
    architecture: Architecture
    simulated: Simulated | None
    after_update: Callable[[], None]
    forward: Forward


def _load_student(step: RunningStep, settings: Settings, team: Team, training: Split) -> _Student:
    signature = Signature.from_json(step.parameters["model"])
    forward = Forward(signature, team.device(), settings.precision)
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    network = make_network(step.parameters["model"], step.code_folder, state, architecture)
    if settings.dialect is not None and (folded := fold_norms(network, signature)).norms:
        architecture = (*architecture, folded)
    network = channels_last(network.to(forward.device))
    after_update = hold_zeros(network, architecture)
    if settings.dialect is None:
        return _Student(network, architecture, None, after_update, forward)
    from enginewright.training.simulation import simulate

    size = settings.batch_size
    order = np.random.default_rng(settings.seed).permutation(len(training))[: _BATCHES_FOR_RANGES * size].tolist()
    simulated = simulate(network, forward, training.batches(size, order=order), settings.dialect).to(forward.device)
    return _Student(simulated, architecture, simulated, after_update, forward)


def _trainer(step: RunningStep, settings: Settings, team: Team, student: _Student, training: Split) -> Trainer:
    loss: Loss = LabelLoss(student.forward)
    if settings.distill is not None:
        model = step.parameters["teacher_model"]
        teacher = make_network(model, step.code_folder, *load_checkpoint(step.inputs["teacher"]))
        teacher = channels_last(teacher.to(student.forward.device))
        network = student.network if student.simulated is None else student.simulated.network
        loss = TeacherLoss(student.forward, network, teacher, settings.distill)
    return Trainer(
        step,
        settings,
        team,
        student.network,
        forward=student.forward,
        loss=loss,
        training=training,
        after_update=student.after_update,
    )


def _identity(step: RunningStep) -> str:
    """A digest of what the training starts from, as far as the step knows it."""
    inputs = {name: sha256_file(path) for name, path in step.inputs.items()}
    return sha256_hex(canonical_bytes({"parameters": step.parameters, "inputs": inputs}))


def _first(trainer: Trainer, validation: Split) -> Progress:
    before = trainer.validate(validation)
    return Progress((Point(0, None, before),), before, 0, trainer.averaged())


def _next(run: Progress, trainer: Trainer, point: Point) -> Progress:
    """The best so far stays until it is beaten."""
    curve = (*run.curve, point)
    if point.validation > run.best:
        return Progress(curve, point.validation, point.epoch, trainer.averaged(), trainer.tensors())
    return Progress(curve, run.best, run.best_epoch, run.kept, trainer.tensors())


def _keep(step: RunningStep, student: _Student, run: Progress) -> dict[str, Json]:
    before = run.curve[0].validation
    if run.best_epoch == 0:
        step.warn(f"no epoch of '{step.name}' was better than the weights it began with ({before:.4f}): those are kept")
    for name, value in student.network.state_dict().items():
        value.copy_(run.kept[name])
    simulated = student.simulated
    state = student.network.state_dict() if simulated is None else simulated.plain_state()
    save_checkpoint(step.output("checkpoint"), state, student.architecture)
    step.output("curve").write_text(json.dumps([asdict(point) for point in run.curve]))
    ranges = module_ranges_to_json({} if simulated is None else simulated.ranges())
    step.output("ranges").write_text(json.dumps(ranges))
    summary: dict[str, Json] = {
        "before": round(before, 4),
        "best": round(run.best, 4),
        "best_epoch": run.best_epoch,
        "epochs": run.epoch,
    }
    return summary
