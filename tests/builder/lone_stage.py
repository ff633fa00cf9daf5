"""Runs single stages in the process of the tests, on networks and data that are defined in the tests."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginewright.running import Outcome, RunningStep
from enginewright.stages import STAGES

Json = Mapping[str, Any]
DATA: Json = {"factory": "data:Made", "arguments": {}}


@dataclass(frozen=True)
class Ran:
    """A stage that ran: what it gave back, where its outputs lie, and what it told meanwhile."""

    outcome: Outcome
    folder: Path
    events: list[Json]

    def output(self, name: str) -> Path:
        return self.folder / name

    def warnings(self) -> list[str]:
        return [event["text"] for event in self.events if event["event"] == "warning"]

    def notes(self) -> list[str]:
        return [event["text"] for event in self.events if event["event"] == "note"]


class LoneStage:
    """`module(name, Net=...)` puts a module where factories find it; `run` calls a stage."""

    def __init__(self, folder: Path, place: Callable[[str, types.ModuleType], None]) -> None:
        self._folder, self._place, self._runs = folder, place, 0

    def module(self, name: str, **members: object) -> None:
        module = types.ModuleType(name)
        vars(module).update(members)
        self._place(name, module)

    def data(self, **splits: object) -> None:
        """The object that the factory of DATA gives, with these splits."""
        self.module("data", Made=lambda: types.SimpleNamespace(**splits))

    def step(self, parameters: Json, events: list[Json] | None = None, **inputs: Path) -> RunningStep:
        self._runs += 1
        staging = self._folder / f"run{self._runs}"
        staging.mkdir(parents=True)
        told = events if events is not None else []
        return RunningStep(
            "lone", parameters, inputs, staging, self._folder / "unfinished", self._folder / "code", told.append
        )

    def run(self, stage: str, parameters: Json, **inputs: Path) -> Ran:
        events: list[Json] = []
        step = self.step(parameters, events, **inputs)
        outcome = importlib.import_module(STAGES[stage].module).run(step)
        return Ran(outcome, step.staging, events)


class Samples:
    """`count` samples of standard normal noise; `label(index)` is what each is called, None without."""

    def __init__(
        self, count: int, shape: Sequence[int], label: Callable[[int], Any] | None = lambda index: index % 4
    ) -> None:
        self.count, self.shape, self.label = count, tuple(shape), label

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], Any]:
        image = np.random.default_rng(index).standard_normal(self.shape).astype(np.float32)
        return image, None if self.label is None else self.label(index)


def model_of(
    shape: Sequence[int | str], *, outputs: Sequence[str] = ("scores",), batch: int | str = "batch", name: str = "image"
) -> dict[str, Any]:
    """The `model` parameter of a step, for the factory Net and one float input."""
    return {
        "factory": "model:Net",
        "arguments": {},
        "inputs": {name: {"shape": [batch, *shape], "dtype": "float32"}},
        "outputs": list(outputs),
    }
