"""What the benchmarks share that set engines beside each other: making their steps, accuracy on the test split, and
ratios from one interleaved measurement.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from enginewright.build import Job, examiner_of
from enginewright.datasets import Split
from enginewright.launch import launch
from enginewright.metrics import CONFIDENCE, make_metric
from enginewright.plan import OutputOf
from enginewright.progress import watch
from enginewright.record import Record
from enginewright.signature import Signature
from enginewright.sources import place_sources
from enginewright.user_code import call_factory
from enginewright.worker import Spec
from enginewright_runtime.backends import backend
from enginewright_runtime.canonical import strict_json
from enginewright_runtime.measure import EngineToMeasure, Measurement
from enginewright_runtime.stats import paired_difference_interval

__all__ = [
    "Accuracy",
    "Built",
    "Clock",
    "Spread",
    "accuracies",
    "already_built",
    "build_up_to",
    "protocol_line",
    "speed_up",
    "split_of",
]

Clock: TypeAlias = Literal["samples_ns", "cpu_ns"]  # the wall's, and that of the process's CPU time

_BATCH = 32


@dataclass(frozen=True)
class Built:
    """A job of which the steps in `records` have run."""

    job: Job
    records: Mapping[str, Record]

    def path(self, wanted: OutputOf) -> Path:
        return self.job.store.object_path(self.records[wanted.step].outputs[wanted.output].digest)

    def json(self, wanted: OutputOf) -> Any:
        return strict_json(self.path(wanted).read_bytes())

    def input_of(self, step: str, name: str) -> Path:
        """What the step `step` got as its input `name`."""
        return self.path(self.job.plan.step(step).inputs[name])

    def engine(self, step: str) -> EngineToMeasure:
        """The engine that the compile step `step` made."""
        entry = self.json(OutputOf(step, "entry"))
        return EngineToMeasure(self.path(OutputOf(step, "engine")), entry["backend"], entry["settings"])


def already_built(job: Job, last: str) -> Built | None:
    """The results of the steps up to `last`, or None where one of them is not in the store."""
    examiner = examiner_of(job)
    for step in job.plan.steps:
        if examiner.examine(step).record is None:
            return None
        if step.name == last:
            break
    return Built(job, examiner.known)


def build_up_to(job: Job, last: str) -> Built:
    """Run the steps up to `last`, each in a process of its own, where their results are not in the store yet.

    Unlike a whole build this delivers nothing into dist/, and leaves what is known of the last build as it was. Raises
    the failing step's error.
    """
    examiner, watching = examiner_of(job), watch(sys.stderr)
    try:
        for position, step in enumerate(job.plan.steps, 1):
            found = examiner.examine(step)
            if found.record is None:
                assert found.ingredients is not None  # all steps before it have run
                watching.begins(step.name, position, len(job.plan.steps), found.reasons)
                spec = Spec(
                    name=step.name,
                    ingredients=found.ingredients,
                    locations={label: source.location for label, source in step.sources.items()},
                    store=job.store.root,
                    project=job.project.root,
                    code_folder=_code_folder(job),
                )
                record = job.store.record(launch(spec, on_event=partial(watching.event, step.name)).key)
                assert record is not None  # a step that ends well has written it
                watching.ends(step.name, "built", record.seconds, record.summary)
                examiner.learn(step, record)
            if step.name == last:
                break
    finally:
        watching.close()
    return Built(job, examiner.known)


def split_of(job: Job, step: str, name: str) -> Split:
    """The split `name` of the recipe's data, as the step `step` reads it."""
    parameters = _parameters(job, step)
    data = call_factory(parameters["data"], _code_folder(job))
    return Split(name, getattr(data, name), Signature.from_json(parameters["model"]))


@dataclass(frozen=True)
class Accuracy:
    """`change` is against the reference, negative where accuracy was lost; both are shares.

    `interval` is that of the change, from the samples that both judged (95 %), None where the metric weighs samples
    differently.
    """

    value: float
    change: float
    interval: tuple[float, float] | None

    def points(self) -> str:
        """The change in points of accuracy, with its interval."""
        if self.interval is None:
            return f"{100 * self.change:+.2f}"
        return f"{100 * self.change:+.2f} ({100 * self.interval[0]:+.2f} to {100 * self.interval[1]:+.2f})"


def accuracies(engines: Mapping[str, EngineToMeasure], job: Job, *, reference: str) -> dict[str, Accuracy]:
    """The accuracy of every engine on the whole test split, by the recipe's metric, against the one called `reference`.

    All engines see the same batches. Raises EngineError where one of them cannot be run.
    """
    split = split_of(job, "reference/evaluate", "test")
    description, code_folder = (
        _parameters(job, "reference/evaluate")["metric"],
        job.project.code_folder(job.recipe.path),
    )
    metrics = {label: make_metric(description, code_folder) for label in engines}
    right: dict[str, list[npt.NDArray[np.bool_]]] = {label: [] for label in engines}
    with ExitStack() as stack:
        opened = {
            label: stack.enter_context(closing(backend(item.backend).open(item.path.read_bytes(), item.settings)))
            for label, item in engines.items()
        }
        size = split.signature.batch_size(_BATCH)
        for batch in split.batches(size, order=range(split.signature.whole_batches(len(split)))):
            outputs = {label: engine.run(batch.inputs) for label, engine in opened.items()}
            calls = {label: next(iter(values.values())).argmax(-1) for label, values in outputs.items()}
            truth = calls[reference] if description.get("name") == "fidelity" else batch.labels
            for label in engines:
                metrics[label].update(outputs[label], batch.labels, outputs[reference])
                right[label].append(calls[label] == truth)
    values = {label: metric.score().value for label, metric in metrics.items()}
    weighs_alike = description.get("name") in ("top1", "fidelity")
    judged = {label: np.concatenate(parts) for label, parts in right.items()} if weighs_alike else {}
    return {
        label: Accuracy(
            value,
            value - values[reference],
            _change_interval(judged[reference], judged[label]) if weighs_alike and label != reference else None,
        )
        for label, value in values.items()
    }


def _change_interval(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> tuple[float, float]:
    broken, fixed = int((before & ~after).sum()), int((~before & after).sum())
    low, high = paired_difference_interval(broken, fixed, before.size, confidence=CONFIDENCE)
    return -high, -low


@dataclass(frozen=True)
class Spread:
    """A figure of each session: their median, and the range of them all."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: list[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def speed_up(measurement: Measurement, label: str, *, reference: str, clock: Clock) -> Spread:
    """How many times faster an engine is: the ratio of the medians of each session, in wall clock or in CPU time."""

    def median(times: Mapping[str, tuple[int, ...]], of: str) -> float:
        return statistics.median(times[of])

    sessions = [getattr(session, clock) for session in measurement.sessions]
    return Spread.of([median(times, reference) / median(times, label) for times in sessions])


def protocol_line(measurement: Measurement) -> str:
    """How a measurement was taken, and how busy the machine was, as one line."""
    protocol = measurement.protocol
    loads = [session.conditions_before.get("load_average") for session in measurement.sessions]
    last_minute = [float(load[0]) for load in loads if isinstance(load, list) and isinstance(load[0], (int, float))]
    load = f", load {min(last_minute):.1f} to {max(last_minute):.1f}" if last_minute else ""
    return (
        f"{measurement.host['cpu']}, batch 1, threads {max(protocol.threads.values())}, caches {protocol.caches}, "
        f"interleaved in chunks of {protocol.chunk}, fresh processes, sessions {protocol.sessions}{load}"
    )


def _parameters(job: Job, step: str) -> Any:
    planned = job.plan.step(step)
    return place_sources(dict(planned.parameters), planned.sources)


def _code_folder(job: Job) -> Path:
    return job.project.code_folder(job.recipe.path, job.recipe.code)
