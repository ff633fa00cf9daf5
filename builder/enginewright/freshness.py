"""Reuse a step's result or run it, and why: the one place that decides, for build, plan and why alike. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from enginewright.plan import Plan, Step
from enginewright.record import Artifact, Ingredients, Record
from enginewright.stages import STAGES
from enginewright_runtime.canonical import Json

__all__ = ["Examiner", "Freshness", "examine", "unusable"]


@dataclass(frozen=True)
class Freshness:
    """Whether a step can be reused.

    `record` is the result to reuse, or None. `ingredients` are None while an earlier step must run first: its result
    may turn out the same, and then this step is reused after all. `reasons` are sentences.
    """

    step: Step
    ingredients: Ingredients | None
    record: Record | None
    reasons: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """ "reused", "stale", or "waits" (for an earlier step)."""
        if self.record is not None:
            return "reused"
        return "stale" if self.ingredients is not None else "waits"


@dataclass
class Examiner:
    """Examines the steps of `plan` in order, and learns the results of those that ran meanwhile.

    `record_of` and `damage` ask the store; `version_of` gives a tool's version; `previous` are the records of the last
    build, by step name.
    """

    plan: Plan
    record_of: Callable[[str], Record | None]
    damage: Callable[[Artifact], str]
    version_of: Callable[[str], str]
    previous: Mapping[str, Record]
    known: dict[str, Record] = field(default_factory=dict)

    def examine(self, step: Step) -> Freshness:
        """Decide about one step; the steps before it must have been examined, or learned, first."""
        stage = STAGES[step.stage]
        earlier = [other.name for other in self.plan.steps[: self.plan.steps.index(step)]]
        needed = earlier if stage.keeps_history else {source.step for source in step.inputs.values()}
        waiting = [name for name in earlier if name in needed and name not in self.known]
        if waiting:
            names = "the steps before it" if stage.keeps_history else ", ".join(waiting)
            return Freshness(step, None, None, (f"waits for {names}",))
        ingredients = Ingredients(
            stage=step.stage,
            version=stage.version,
            parameters=step.parameters,
            inputs={
                name: self.known[source.step].outputs[source.output].digest for name, source in step.inputs.items()
            },
            sources={label: source.digest for label, source in step.sources.items()},
            tools={name: self.version_of(name) for name in stage.tools},
            history={name: self.known[name].key for name in earlier} if stage.keeps_history else {},
        )
        record = self.record_of(ingredients.key)
        if record is None:
            return Freshness(step, ingredients, None, self._changes(step, ingredients))
        if spoiled := unusable(record, self.damage):
            return Freshness(step, ingredients, None, spoiled)
        self.learn(step, record)
        return Freshness(step, ingredients, record)

    def learn(self, step: Step, record: Record) -> None:
        self.known[step.name] = record

    def _changes(self, step: Step, ingredients: Ingredients) -> tuple[str, ...]:
        before = self.previous.get(step.name)
        if before is None:
            return ("it was never built",)
        old, new = before.ingredients, ingredients
        reasons = []
        if old.version != new.version:
            reasons.append(f"the stage '{new.stage}' changed: version {old.version} -> {new.version}")
        reasons += _differences("parameter", _flat(old.parameters), _flat(new.parameters))
        reasons += _differences("file", _short(old.sources), _short(new.sources))
        reasons += _differences("input", _short(old.inputs), _short(new.inputs))
        reasons += _differences("tool", old.tools, new.tools)
        reasons += _differences("earlier step", _short(old.history), _short(new.history))
        return tuple(reasons) or ("its result is no longer in the store",)


def unusable(record: Record, damage: Callable[[Artifact], str]) -> tuple[str, ...]:
    """Why a record that has the right key must not be reused, as sentences; empty where it may be."""
    if record.provisional:
        return (record.provisional,)
    troubles = ((name, damage(artifact)) for name, artifact in record.outputs.items())
    return tuple(f"its {name} in the store {trouble}" for name, trouble in troubles if trouble)


def examine(examiner: Examiner) -> tuple[Freshness, ...]:
    """What a build would do now, step by step."""
    return tuple(examiner.examine(step) for step in examiner.plan.steps)


def _differences(word: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    sentences = []
    for name in sorted({*old, *new}):
        if name not in old:
            sentences.append(f"{word} {name} is new: {new[name]}")
        elif name not in new:
            sentences.append(f"{word} {name} is gone, it was {old[name]}")
        elif old[name] != new[name]:
            sentences.append(f"{word} {name} changed: {old[name]} -> {new[name]}")
    return sentences


def _short(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: digest[:12] for name, digest in digests.items()}


def _flat(value: Json | Mapping[str, Json], where: str = "") -> dict[str, str]:
    """A nested value as path -> text; long texts (the rendered recipe) by their first line and length."""
    if isinstance(value, Mapping):
        parts = [_flat(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()]
        return {key: text for part in parts for key, text in part.items()}
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        parts = [_flat(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return {key: text for part in parts for key, text in part.items()}
    text = str(value)
    return {where: text if len(text) <= 80 else f"{text[:60]!r}... ({len(text)} characters)"}
