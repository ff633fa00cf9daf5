"""Evaluate: the accuracy of the very engine bytes on the test split, and how near its outputs are to the reference's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from enginewright.datasets import Batch, class_names, load_data, load_split
from enginewright.errors import DataError
from enginewright.metrics import CONFIDENCE, Classification, Metric, Score, make_metric
from enginewright.outputs import OutputsReader, OutputsWriter
from enginewright.running import Outcome, RunningStep
from enginewright.sample_digests import digests_from_json, digests_of
from enginewright.signature import Array
from enginewright_runtime.backends import backend
from enginewright_runtime.backends.protocol import OpenEngine
from enginewright_runtime.golden import Golden
from enginewright_runtime.stats import paired_difference_interval

__all__ = ["GOLDEN_SAMPLES", "GOLDEN_TOLERANCE", "run"]

GOLDEN_SAMPLES = 4
# As a share of an output's largest magnitude: other hosts of the same kind may round an int8 value the other way, but
# no engine that is broken comes this near.
GOLDEN_TOLERANCE = 0.02
_BATCH = 32


def run(step: RunningStep) -> Outcome:
    data = load_data(step)
    split = load_split(data, "test", step)
    largest = step.parameters.get("largest_batch", _BATCH)
    size = split.batch_size(largest)
    # Where the network's batch size is fixed, the last samples that do not fill a batch are left out.
    samples = split.signature.whole_batches(len(split))
    if not samples:
        raise DataError(
            f"the test split has fewer samples than the network's batch size of {size}", hint="give more test data"
        )
    metric = make_metric(step.parameters["metric"], step.code_folder)
    with ExitStack() as stack:
        engine = stack.enter_context(closing(_open(step)))
        writer = stack.enter_context(OutputsWriter(step.output("outputs")))
        reference = _reference(step, stack, samples)
        comparison = None if reference is None else _Comparison()
        overlap = _Overlap(step)
        done = 0
        batches = split.batches(size, order=range(samples))
        for batch in step.tracked(batches, total=-(-samples // size), note="evaluating"):
            outputs = engine.run(batch.inputs)
            _refuse_nan(outputs, done)
            writer.append(outputs, len(batch))
            theirs = outputs if reference is None else reference.read(len(batch))
            metric.update(outputs, batch.labels, theirs)
            if comparison is not None:
                comparison.update(outputs, theirs, batch.labels)
            overlap.look(batch)
            if not done:
                tolerance = step.parameters.get("golden_tolerance", GOLDEN_TOLERANCE)
                golden = _golden(engine, batch, split.signature.batch_size(min(GOLDEN_SAMPLES, largest)), tolerance)
                step.output("golden").write_bytes(golden.to_bytes())
            done += len(batch)
    overlap.warn(done)
    score = metric.score()
    names = class_names(data)
    if names is not None and score.confusion is not None and len(names) != len(score.confusion):
        step.warn(
            f"the data names {len(names)} classes and the network has {len(score.confusion)}: the report gives numbers"
        )
    evaluation = _evaluation(metric, score, done, names, comparison)
    step.output("evaluation").write_text(json.dumps(evaluation))
    return Outcome({"metric": metric.name, "accuracy": round(score.value, 5), "samples": done})


def _reference(step: RunningStep, stack: ExitStack, samples: int) -> OutputsReader | None:
    """What the reference said of the same samples; None for the reference itself."""
    if "reference_outputs" not in step.inputs:
        return None
    reader = stack.enter_context(OutputsReader(step.inputs["reference_outputs"]))
    if reader.samples != samples:
        raise DataError(
            f"the reference was evaluated on {reader.samples} test samples, and now there are {samples}",
            hint="a split must have the same samples each time it is made: check the data factory",
        )
    return reader


class _Overlap:
    """Counts the test samples that calibration has read."""

    def __init__(self, step: RunningStep) -> None:
        self._step = step
        self._calibrated: frozenset[bytes] = frozenset()
        if "calibration_samples" in step.inputs:
            self._calibrated = digests_from_json(json.loads(step.inputs["calibration_samples"].read_bytes()))
        self._found = 0

    def look(self, batch: Batch) -> None:
        if self._calibrated:
            self._found += sum(digest in self._calibrated for digest in digests_of(batch.inputs))

    def warn(self, samples: int) -> None:
        if self._found:
            self._step.warn(
                f"{self._found} of the {samples} test samples are calibration data, too: the accuracy on them says "
                "less about samples that the engine has not seen. Keep the splits 'calibration' and 'test' apart"
            )


def _open(step: RunningStep) -> OpenEngine:
    entry = json.loads(step.inputs["entry"].read_bytes())
    return backend(entry["backend"]).open(step.inputs["engine"].read_bytes(), entry["settings"])


def _refuse_nan(outputs: Mapping[str, Array], done: int) -> None:
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"the engine's output '{name}' is NaN or infinite on the test samples from {done} on",
                hint="quantize with another calibration method",
            )


@dataclass
class _Comparison:
    """Engine against reference on the same samples, as running sums: nothing is kept."""

    samples: int = 0
    same: int = 0
    broken: int = 0
    fixed: int = 0
    labelled: bool = True
    signal: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)

    def update(self, ours: Mapping[str, Array], theirs: Mapping[str, Array], labels: Array | None) -> None:
        for name, values in ours.items():
            expected = theirs[name].astype(np.float64)
            self.signal[name] = self.signal.get(name, 0.0) + float((expected**2).sum())
            self.noise[name] = self.noise.get(name, 0.0) + float(((values - expected) ** 2).sum())
        called, expected_calls = (next(iter(side.values())).argmax(-1) for side in (ours, theirs))
        self.samples += called.size
        self.same += int((called == expected_calls).sum())
        if labels is None or labels.shape != called.shape or labels.dtype.kind not in "iu":
            self.labelled = False
            return
        self.broken += int(((expected_calls == labels) & (called != labels)).sum())
        self.fixed += int(((expected_calls != labels) & (called == labels)).sum())

    def signal_to_noise_db(self) -> dict[str, float | None]:
        """None where the outputs are the same to the bit."""
        return {
            name: 10 * float(np.log10(self.signal[name] / noise)) if noise > 0 else None
            for name, noise in self.noise.items()
        }


def _evaluation(
    metric: Metric, score: Score, samples: int, classes: tuple[str, ...] | None, comparison: _Comparison | None
) -> dict[str, Any]:
    labelled = isinstance(metric, Classification) and metric.name != "fidelity"
    names = (
        classes
        if labelled and classes is not None and score.confusion is not None and len(classes) == len(score.confusion)
        else None
    )
    changed = None
    if (
        comparison is not None and comparison.labelled and metric.name == "top1"
    ):  # the others do not weigh samples alike
        low, high = paired_difference_interval(
            comparison.broken, comparison.fixed, comparison.samples, confidence=CONFIDENCE
        )
        drop = (comparison.broken - comparison.fixed) / comparison.samples
        changed = {"broken": comparison.broken, "fixed": comparison.fixed, "drop": drop, "interval": [low, high]}
    return {
        "format": 1,
        "metric": metric.name,
        "samples": samples,
        "accuracy": score.value,
        "interval": list(score.interval) if score.interval else None,
        "confidence": CONFIDENCE,
        "classes": list(names) if names else None,
        "confusion": score.confusion.tolist() if labelled and score.confusion is not None else None,
        "per_class": _per_class(score.confusion, names) if labelled and score.confusion is not None else None,
        "agreement": comparison.same / comparison.samples
        if comparison and isinstance(metric, Classification)
        else None,
        "signal_to_noise_db": comparison.signal_to_noise_db() if comparison else None,
        "changed": changed,
    }


def _per_class(confusion: npt.NDArray[np.int64], names: tuple[str, ...] | None) -> list[dict[str, Any]]:
    samples = confusion.sum(1)
    return [
        {
            "name": names[index] if names else str(index),
            "samples": int(samples[index]),
            "accuracy": float(confusion[index, index] / samples[index]) if samples[index] else None,
        }
        for index in range(len(confusion))
    ]


def _golden(engine: OpenEngine, batch: Batch, size: int, tolerance: float) -> Golden:
    """A few real inputs with this engine's outputs: what every session on a device can check itself with."""
    inputs = {name: values[:size] for name, values in batch.inputs.items()}
    outputs = engine.run(inputs)
    tolerances = {
        name: np.asarray(tolerance * max(float(np.abs(values).max()), 1e-6)) for name, values in outputs.items()
    }
    return Golden(inputs, outputs, tolerances)
