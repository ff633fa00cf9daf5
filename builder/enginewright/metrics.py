"""What "accuracy" means for a recipe: built-in metrics, and the user's own. Higher is better, 1.0 is perfect.

A user's metric (`metric: {factory: metric:MeanIoU}`) is an object with `update(outputs, labels)`, called with a dict of
arrays for each batch, and `compute() -> float`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from enginewright.errors import DataError
from enginewright.user_code import call_factory, users
from enginewright_runtime.stats import wilson_interval

__all__ = ["CONFIDENCE", "Classification", "Metric", "Score", "make_metric"]

CONFIDENCE = 0.95
_RESAMPLES = 2000

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Score:
    """`interval` is at CONFIDENCE, None where the metric is the user's; `confusion[i, j]` counts samples of class i
    called j.
    """

    value: float
    interval: tuple[float, float] | None
    confusion: npt.NDArray[np.int64] | None


class Metric(Protocol):
    name: str

    def update(
        self, outputs: Mapping[str, Array], labels: Array | None, reference: Mapping[str, Array] | None
    ) -> None: ...

    def score(self) -> Score: ...


def make_metric(description: Mapping[str, Any], code_folder: Path) -> Metric:
    """The metric of a recipe: `{"name": ...}` is built in, `{"factory": ..., "arguments": ...}` the user's."""
    name = description.get("name")
    if name is None:
        return UserMetric(description, code_folder)
    built_in: dict[str, type[Top1 | BalancedAccuracy]] = {
        "top1": Top1,
        "balanced_accuracy": BalancedAccuracy,
        "fidelity": Fidelity,
    }
    return built_in[name]()


class Classification:
    """Counts the samples of each true class that were called each class; the first output holds the class scores on its
    last axis.
    """

    name = "classification"

    def __init__(self) -> None:
        self.confusion: npt.NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def update(self, outputs: Mapping[str, Array], labels: Array | None, reference: Mapping[str, Array] | None) -> None:
        scores = next(iter(outputs.values()))
        classes = scores.shape[-1]
        if not self.confusion.size:
            self.confusion = np.zeros((classes, classes), np.int64)
        if classes != len(self.confusion):
            raise DataError(f"the network gave scores for {len(self.confusion)} classes, and now for {classes}")
        truth = self._truth(labels, reference)
        if truth.shape != scores.shape[:-1] or truth.dtype.kind not in "iu":
            raise DataError(
                f"the metric '{self.name}' wants one integer label a sample, but labels are {truth.dtype} of shape {list(truth.shape)} "
                f"beside scores of shape {list(scores.shape)}",
                hint="name a metric factory of your own under 'metric'",
            )
        if truth.size and not 0 <= truth.min() <= truth.max() < classes:
            raise DataError(
                f"labels run from {truth.min()} to {truth.max()}, but the network has {classes} classes",
                hint="check the data factory, and the classes that the model is made with",
            )
        pairs = truth.ravel().astype(np.int64) * classes + scores.argmax(-1).ravel()
        np.add.at(self.confusion.reshape(-1), pairs, 1)

    def _truth(self, labels: Array | None, reference: Mapping[str, Array] | None) -> Array:
        if labels is None:
            raise DataError(
                f"the metric '{self.name}' needs labels, and the data gives none",
                hint="use 'metric: fidelity' without labels",
            )
        return labels


class Top1(Classification):
    """The share of samples whose highest score is the true class, with Wilson's interval (Wilson 1927)."""

    name = "top1"

    def score(self) -> Score:
        table = self.confusion.copy()
        right, total = int(np.trace(table)), int(table.sum())
        return Score(right / total, wilson_interval(right, total, confidence=CONFIDENCE), table)


class BalancedAccuracy(Classification):
    """The mean over the classes of the share called right; its interval by resampling within each class (2,000 times,
    seeded).

    With few samples of a class the interval is wide, which is the truth about it.
    """

    name = "balanced_accuracy"

    def score(self) -> Score:
        table = self.confusion.copy()
        samples = table.sum(1)
        present = samples > 0
        right = np.diag(table)[present] / samples[present]
        # Agresti-Coull's added two successes and failures keep a class without errors from claiming a certainty that it
        # has not.
        smoothed = (np.diag(table)[present] + 2) / (samples[present] + 4)
        draws = (
            np.random.default_rng(0).binomial(samples[present], smoothed, (_RESAMPLES, present.sum()))
            / samples[present]
        )
        low, high = np.quantile(draws.mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        value = float(right.mean())
        return Score(value, (min(float(low), value), max(float(high), value)), table)


class Fidelity(Top1):
    """How often the highest score is that of the float network's: for data without labels. The reference itself has 1.0
    by definition.
    """

    name = "fidelity"

    def _truth(self, labels: Array | None, reference: Mapping[str, Array] | None) -> Array:
        if reference is None:
            raise DataError("the metric 'fidelity' compares with the outputs of the reference, and there are none")
        calls: Array = next(iter(reference.values())).argmax(-1)
        return calls


class UserMetric:
    """The recipe's own metric object, behind the same two methods."""

    def __init__(self, description: Mapping[str, Any], code_folder: Path) -> None:
        self.name = str(description["factory"])
        self._metric = call_factory(description, code_folder)

    def update(self, outputs: Mapping[str, Array], labels: Array | None, reference: Mapping[str, Array] | None) -> None:
        with users(f"{self.name}.update"):
            self._metric.update(outputs, labels)

    def score(self) -> Score:
        with users(f"{self.name}.compute"):
            value = float(self._metric.compute())
        if not np.isfinite(value):
            raise DataError(
                f"the metric {self.name} gave {value}", hint="mend its compute(): it must give a finite number"
            )
        return Score(value, None, None)
