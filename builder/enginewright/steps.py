"""What a plan consists of, and the rule that its steps fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginewright.errors import UsageError
from enginewright.sources import Source
from enginewright.stages import Stage
from enginewright_runtime.canonical import Json

__all__ = ["HostFacts", "OutputOf", "Plan", "Step", "check_order"]


@dataclass(frozen=True)
class OutputOf:
    """An artifact that an earlier step of the same plan makes."""

    step: str
    output: str


@dataclass(frozen=True)
class Step:
    """One stage with its parameters, the artifacts it takes from earlier steps, and the sources it reads from outside
    the store.
    """

    name: str
    stage: str
    parameters: Mapping[str, Json]
    inputs: Mapping[str, OutputOf] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    recipe: str
    target: str
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


@dataclass(frozen=True)
class HostFacts:
    """What planning must know of the computer that compiles and measures.

    `dialect` names the Q/DQ dialect, `requires` is what an engine made here needs to run, `precision` is the one that
    training is fastest in, `fingerprint` tells whose measurements compare.

    Where the target's engine does not run here, `pending` says why, `twin_requires` is what an engine of its twin needs,
    which ONNX Runtime runs here, and `requires` is empty unless the engine is compiled ahead of time. `checker` is the
    version of TensorRT-RTX that checks the structure of a TensorRT network; empty without.
    """

    dialect: str
    requires: Mapping[str, str]
    precision: str
    fingerprint: str
    pending: str = ""
    twin_requires: Mapping[str, str] = field(default_factory=dict)
    checker: str = ""


def check_order(steps: list[Step], stages: Mapping[str, Stage]) -> None:
    """Every input must be there, made by an earlier step, and of a kind that the stage takes. Raises UsageError."""
    made: dict[OutputOf, str] = {}
    for step in steps:
        stage = stages[step.stage]
        accepted = {**stage.consumes, **stage.optional}
        for name in stage.consumes:
            if name not in step.inputs:
                raise UsageError(f"step '{step.name}' ({step.stage}) lacks its input '{name}'")
        for name, source in step.inputs.items():
            if name not in accepted:
                raise UsageError(f"step '{step.name}' ({step.stage}) takes no input '{name}'")
            kind = made.get(source)
            if kind is None:
                raise UsageError(
                    f"step '{step.name}' wants '{source.output}' of '{source.step}', which no earlier step makes"
                )
            if kind not in accepted[name]:
                wanted = " or ".join(accepted[name])
                raise UsageError(
                    f"step '{step.name}' ({step.stage}) takes {wanted} as '{name}', but '{source.step}' makes: {kind}",
                    hint="change the order of the steps under 'compress'",
                )
        made.update({OutputOf(step.name, output): kind for output, kind in stage.produces.items()})
