"""How a device's outputs on carried samples are judged: against the labels, the float reference and the twin.

The metric is the builder's own class, which needs numpy alone; the builder's folder is beside the runtime's in a checkout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.gpu.prepared import Prepared, Samples

from enginewright_runtime.backends import Array

__all__ = ["METRICS", "Accuracy", "accuracy_of", "judge_accuracy", "share_beyond"]

_ERRORS = 2.0  # standard errors that a drop may lie beyond its budget
METRICS = ("top1", "fidelity", "balanced_accuracy")  # the builder's own


@dataclass(frozen=True)
class Accuracy:
    """`drop` below the reference on the same samples, what the recipe allows, and what the number of samples adds."""

    value: float
    drop: float
    budget: float
    slack: float

    @property
    def within(self) -> bool:
        return self.drop <= self.budget + self.slack

    def __str__(self) -> str:
        return (
            f"accuracy {self.value:.4f}, {self.drop:+.4f} below the reference; allowed are {self.budget:g} "
            f"and {self.slack:.4f} for the number of samples"
        )


def accuracy_of(metric: str, outputs: Mapping[str, Array], samples: Samples) -> float:
    """The recipe's metric on these samples."""
    from enginewright.metrics import make_metric

    judged = make_metric({"name": metric}, Path())
    judged.update(outputs, samples.labels, samples.reference)
    return judged.score().value


def judge_accuracy(prepared: Prepared, outputs: Mapping[str, Array]) -> Accuracy:
    """The drop below the reference, which may lie beyond the recipe's budget by two standard errors.

    A few hundred samples cannot tell a drop of 1.0 points from one of 1.3. Each sample that the one gets right and the
    other wrong moves the accuracy by its weight (one in all samples; with balanced accuracy one in those of its class,
    and in the classes), so that the standard error of the paired difference is the root of the sum of their squares.
    """
    value = accuracy_of(prepared.metric, outputs, prepared.samples)
    weights, truth = _weights(prepared)
    ours, theirs = (_calls(side) == truth for side in (outputs, prepared.samples.reference))
    slack = _ERRORS * math.sqrt(float((weights[ours != theirs] ** 2).sum()))
    budget = prepared.bundle.manifest.budget.get("accuracy_drop", 0.0)
    return Accuracy(value, prepared.accuracy["reference"] - value, budget, slack)


def _calls(outputs: Mapping[str, Array]) -> Array:
    return np.asarray(next(iter(outputs.values())).argmax(-1)).ravel()


def _weights(prepared: Prepared) -> tuple[Array, Array]:
    """By how much each sample moves the metric, and its true class."""
    samples = prepared.samples
    truth = _calls(samples.reference) if samples.labels is None else samples.labels.ravel()
    if prepared.metric == "fidelity":
        truth = _calls(samples.reference)
    if prepared.metric != "balanced_accuracy":
        return np.full(truth.shape, 1 / truth.size), truth
    classes, index, counts = np.unique(truth, return_inverse=True, return_counts=True)
    return 1 / (len(classes) * counts[index]), truth


def share_beyond(outputs: Mapping[str, Array], twin: Mapping[str, Array], tolerances: Mapping[str, Array]) -> float:
    """The share of samples that are further from the twin's outputs than the golden outputs may be."""
    beyond = np.zeros(len(next(iter(twin.values()))), bool)
    for name, expected in twin.items():
        far = np.abs(outputs[name].astype(np.float64) - expected) > tolerances[name]
        beyond |= far.reshape(len(expected), -1).any(1)
    return float(beyond.mean())
