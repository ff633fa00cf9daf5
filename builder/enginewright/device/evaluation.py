"""The accuracy of an engine on its device: the test inputs go there, the outputs come back, and the recipe's metric judges
them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginewright.build import BuildResult, Job
from enginewright.datasets import Batch, load_data, load_split
from enginewright.device.errors import DeviceFailed
from enginewright.metrics import Metric, Score, make_metric
from enginewright.outputs import OutputsReader
from enginewright.record import Record
from enginewright.running import RunningStep
from enginewright.signature import Array
from enginewright.sources import place_sources
from enginewright_runtime.npz import write_npz

__all__ = ["Chunk", "Evaluation", "evaluating_step", "open_evaluation"]

_BATCH = 32  # the largest that a TensorRT engine is built for
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Chunk:
    """Some of the test samples: their inputs as an npz, their labels, and how many there are."""

    inputs: bytes
    labels: Array | None
    samples: int


@dataclass
class Evaluation:
    """The test split in chunks, and the metric that takes their outputs, in order.

    `batch` is how many samples the engine gets at once. `reference` has what the float network said of the same.
    """

    batches: Iterator[Batch]
    samples: int
    batch: int
    metric: Metric
    reference: OutputsReader | None
    done: int = 0

    def chunks(self, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[Chunk]:
        """Whole batches, together of `chunk_bytes` or a batch more."""
        held: list[Batch] = []
        for batch in self.batches:
            held.append(batch)
            if sum(array.nbytes for one in held for array in one.inputs.values()) >= chunk_bytes:
                yield _chunk(held)
                held = []
        if held:
            yield _chunk(held)

    def take(self, chunk: Chunk, outputs: Mapping[str, Array]) -> None:
        """The outputs of the next chunk. Raises DeviceFailed where they are not its outputs, or not finite."""
        for name, values in outputs.items():
            if values.shape[:1] != (chunk.samples,):
                raise DeviceFailed(f"the device gave {len(values)} samples of '{name}' for {chunk.samples}")
            if not np.isfinite(values).all():
                raise DeviceFailed(
                    f"the engine's output '{name}' is NaN or infinite on the device, on the test samples from "
                    f"{self.done} on",
                    hint="keep the layers at fault in float, or quantize with another calibration method",
                )
        theirs = outputs if self.reference is None else self.reference.read(chunk.samples)
        self.metric.update(outputs, chunk.labels, theirs)
        self.done += chunk.samples

    def score(self) -> Score:
        return self.metric.score()


def _chunk(batches: Sequence[Batch]) -> Chunk:
    inputs = {name: np.concatenate([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Chunk(write_npz(inputs), np.concatenate(labels) if labels else None, sum(map(len, batches)))


def evaluating_step(job: Job, record: Record) -> RunningStep:
    """The build's own step `evaluate` again, from its record, to load what it evaluated; it has no inputs."""
    parameters = place_sources(dict(record.ingredients.parameters), job.plan.step("evaluate").sources)
    assert isinstance(parameters, dict)
    return RunningStep(
        name="evaluate",
        parameters=parameters,
        inputs={},
        staging=Path(),
        unfinished=Path(),
        code_folder=job.project.code_folder(job.recipe.path, job.recipe.code),
        tell=lambda event: None,
    )


def open_evaluation(job: Job, result: BuildResult, stack: ExitStack) -> Evaluation:
    """What the build's own step `evaluate` evaluated, from its record. `stack` closes what is opened."""
    record = next(step.record for step in result.steps if step.name == "evaluate")
    step = evaluating_step(job, record)
    split = load_split(load_data(step), "test", step)
    samples = split.signature.whole_batches(len(split))
    size = split.batch_size(step.parameters.get("largest_batch", _BATCH))
    digest = record.ingredients.inputs.get("reference_outputs")
    reference = stack.enter_context(OutputsReader(job.store.object_path(digest))) if digest else None
    metric = make_metric(step.parameters["metric"], step.code_folder)
    return Evaluation(split.batches(size, order=range(samples)), samples, size, metric, reference)
