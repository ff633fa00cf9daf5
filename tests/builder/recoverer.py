"""Runs the stage `recover` in the process of the tests, on a network of two layers that learns in a second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.builder.lone_stage import DATA, LoneStage, Ran, model_of
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, save_checkpoint
from enginewright.edits import Architecture

SHAPE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


class TwoOutputs(Net):
    """Its second output has weights of its own, which the loss does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.conv(image)).mean((2, 3))
        return self.head(features), self.other(features)


class Coloured:
    """Four classes that a small network learns: which of four patches is bright."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = np.random.default_rng([self.seed, index]).normal(0, 0.3, SHAPE).astype(np.float32)
        label = index % 4
        image[label % 3] += 1.5 if label < 3 else 0.0
        return image, label


class Recoverer:
    """`factory` makes the student, `teacher_factory` the teacher where that is another."""

    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.folder = lone, folder
        self.factory: Callable[[], nn.Module] = Net
        self.teacher_factory: Callable[[], nn.Module] | None = None
        self.metric: Any = {"name": "top1"}
        self.architecture: Architecture = ()
        lone.data(train=Coloured(64), validation=Coloured(48, seed=1))

    def checkpoint(self, network: nn.Module, name: str) -> Path:
        save_checkpoint(self.folder / name, network.state_dict(), self.architecture if name == "student" else ())
        return self.folder / name

    def parameters(self, *, shape: tuple[int, ...] = SHAPE, **changed: Any) -> dict[str, Any]:
        model = model_of(shape)
        parameters = {
            "model": model, "teacher_model": {**model, "factory": "model:Teacher"},
            "metric": self.metric, "data": DATA,
            "epochs": 1, "learning_rate": 0.01, "batch_size": 16, "weight_decay": 0.0, "ema": 0.0, "seed": 0,
            "processes": 1, "distill": None, "quantized": False, "precision": "float32", **changed,
        }  # fmt: skip
        if parameters["distill"] is not None:
            parameters["distill"] = {"features": [], "feature_weight": 1.0, **parameters["distill"]}
        return parameters

    def run(self, student: nn.Module, teacher: nn.Module | None = None, **changed: Any) -> Ran:
        """As the worker runs it: what an interruption leaves is removed once the step is done."""
        self.lone.module("model", Net=self.factory, Teacher=self.teacher_factory or self.factory)
        ran = self.lone.run("recover", self.parameters(**changed), **self.inputs(student, teacher))
        shutil.rmtree(self.unfinished, ignore_errors=True)
        return ran

    def inputs(self, student: nn.Module, teacher: nn.Module | None = None) -> dict[str, Path]:
        return {
            "checkpoint": self.checkpoint(student, "student"),
            "teacher": self.checkpoint(teacher or student, "teacher"),
        }

    @property
    def unfinished(self) -> Path:
        return self.lone.step({}).unfinished


def seeded(factory: Callable[[], nn.Module] = Net, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return factory().eval()


def curve(ran: Ran) -> list[dict[str, Any]]:
    return json.loads(ran.output("curve").read_text())


def notes(ran: Ran) -> list[str]:
    return [event["text"] for event in ran.events if event["event"] == "note"]


def weights(ran: Ran) -> dict[str, Tensor]:
    return load_checkpoint(ran.output("checkpoint"))[0]


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def stacked(split: Any) -> tuple[Tensor, Any]:
    """All images of a split, and their labels."""
    images, labels = zip(*(split[index] for index in range(len(split))), strict=True)
    return torch.from_numpy(np.stack(images)), np.asarray(labels)


def accuracy(network: nn.Module, split: Any) -> float:
    images, labels = stacked(split)
    with torch.no_grad():
        return float((network(images).argmax(-1).numpy() == labels).mean())
