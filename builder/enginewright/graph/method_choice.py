"""The calibration method of a network, chosen by trying all of them on samples that their ranges have not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx

from enginewright.datasets import Batch
from enginewright.errors import DataError, UserCodeError
from enginewright.graph.execution import open_session
from enginewright.graph.fidelity import decibels
from enginewright.metrics import Metric
from enginewright.signature import Array
from enginewright_runtime.canonical import Json
from enginewright_runtime.stats import student_t_quantile

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["GROUPS", "Choice", "Trial", "Trials", "choose", "try_methods"]

GROUPS = 10  # of held-back samples; leaving out one at a time tells how far chance moves the metric
_FEWEST_GROUPS = 5
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trial:
    """One method on the held-back samples.

    `signal_to_noise_db`: of the outputs against those of the float network, the mean over the outputs. `accuracy`: the
    recipe's metric, None where it cannot judge these samples; `without`: the same with each group left out.
    """

    method: str
    signal_to_noise_db: float
    accuracy: float | None = None
    without: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trials:
    """`no_metric` says why there is no accuracy, or is empty."""

    methods: tuple[Trial, ...]
    float_accuracy: float | None
    no_metric: str = ""


@dataclass(frozen=True)
class Choice:
    """`chosen_by` is "accuracy" or "signal to noise"; `reason` is a sentence."""

    method: str
    chosen_by: str
    reason: str

    def to_json(self, trials: Trials, *, metric: str, held_back: int) -> dict[str, Json]:
        """The choice with the figures of every method."""
        table: list[Json] = [
            {"method": trial.method, "signal_to_noise_db": trial.signal_to_noise_db, "accuracy": trial.accuracy}
            for trial in trials.methods
        ]
        return {
            "chosen": self.method,
            "chosen_by": self.chosen_by,
            "reason": self.reason,
            "held_back": held_back,
            "metric": metric,
            "float_accuracy": trials.float_accuracy,
            "methods": table,
        }


def choose(trials: Sequence[Trial]) -> Choice:
    """The method that keeps the most signal, among those that are not less accurate than the most accurate one by more
    than chance can explain.

    Chance is judged on the same samples for both methods: the standard error of the difference of their accuracies
    comes from leaving out one group of samples at a time (the jackknife: Quenouille 1956, Tukey 1958), which fits every
    metric, and Student's t at 95 % on two sides, shared among the comparisons.
    """
    clearest = max(trials, key=lambda trial: trial.signal_to_noise_db)
    judged = [trial for trial in trials if trial.accuracy is not None]
    if not judged:
        return Choice(clearest.method, "signal to noise", _clearest(clearest))
    best = max(judged, key=lambda trial: (trial.accuracy or 0.0, trial.signal_to_noise_db))
    level = 1 - (1 - _CONFIDENCE) / 2 / max(1, len(judged) - 1)
    good = [trial for trial in judged if not _surely_better(best, trial, level)]
    chosen = max(good, key=lambda trial: trial.signal_to_noise_db)
    if chosen is clearest:
        return Choice(clearest.method, "signal to noise", f"{_clearest(clearest)}, and none is surely more accurate")
    reason = (
        f"{clearest.method} keeps the most signal ({clearest.signal_to_noise_db:.1f} dB), but is less accurate than "
        f"{best.method} ({clearest.accuracy:.2%} against {best.accuracy:.2%}) by more than chance can explain; of the "
        f"methods that are not, {chosen.method} keeps the most ({chosen.signal_to_noise_db:.1f} dB)"
    )
    return Choice(chosen.method, "accuracy", reason)


def try_methods(
    network: onnx.ModelProto,
    candidates: Iterable[tuple[str, onnx.ModelProto]],
    groups: Sequence[Iterable[Batch]],
    *,
    outputs: Sequence[str],
    make_metric: Callable[[], Metric],
    needs_labels: bool,
    threads: int,
) -> Trials:
    """Run the float network and the quantized `candidates` (by method) side by side on groups of held-back batches, in
    float arithmetic with the rounding simulated.

    Memory holds the weights of all of them, and sums. Where the metric cannot judge the samples, the trials have no
    accuracy and say why.
    """
    reference = _Side("float", open_session(network, threads=threads), len(groups))
    sides = [_Side(method, open_session(model, threads=threads), len(groups)) for method, model in candidates]
    no_metric = ""
    for number, group in enumerate(groups):
        for batch in group:
            if batch.labels is None and needs_labels:
                no_metric = no_metric or "they have no labels"
            expected = reference.run(batch, outputs)
            for side in (reference, *sides):
                came = expected if side is reference else side.run(batch, outputs)
                side.compare(came, expected)
                if not no_metric:
                    no_metric = side.judge(came, batch, expected, number, make_metric)
    scores: dict[str, tuple[float, ...]] = {}
    if not no_metric:
        no_metric, scores = _scores([reference, *sides])
    trials = [
        Trial(
            side.name,
            side.signal_to_noise_db(),
            scores[side.name][0] if scores else None,
            scores[side.name][1:] if scores else (),
        )
        for side in sides
    ]
    return Trials(tuple(trials), scores["float"][0] if scores else None, no_metric)


@dataclass
class _Side:
    """One network in the trial: sums over its outputs, and the metric of all samples and of all without each group."""

    name: str
    session: onnxruntime.InferenceSession
    groups: int
    metrics: list[Metric] = field(default_factory=list)  # of all samples, then without the first group, the second...
    signal: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        return dict(zip(outputs, self.session.run(list(outputs), dict(batch.inputs)), strict=True))

    def compare(self, came: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
        for name, values in came.items():
            reference = expected[name]
            if reference.dtype.kind == "f":
                signal = float((reference.astype(np.float64) ** 2).sum())
                noise = float(((values.astype(np.float64) - reference) ** 2).sum())
            else:  # a class or an index is right or wrong: how far off it is says nothing
                signal, noise = float(reference.size), float((values != reference).sum())
            self.signal[name] = self.signal.get(name, 0.0) + signal
            self.noise[name] = self.noise.get(name, 0.0) + noise

    def signal_to_noise_db(self) -> float:
        return float(np.mean([decibels(signal, self.noise[name]) for name, signal in self.signal.items()]))

    def judge(
        self,
        came: Mapping[str, Array],
        batch: Batch,
        expected: Mapping[str, Array],
        group: int,
        make_metric: Callable[[], Metric],
    ) -> str:
        """Tell the metrics; returns why they cannot judge these samples, or an empty text."""
        if not self.metrics:
            self.metrics = [make_metric() for _ in range(self.groups + 1)]
        try:
            for number, metric in enumerate(self.metrics):
                if number != group + 1:
                    metric.update(came, batch.labels, expected)
        except (DataError, UserCodeError) as error:
            return error.message
        return ""


def _scores(sides: Sequence[_Side]) -> tuple[str, dict[str, tuple[float, ...]]]:
    """Why the metric gives no scores, or an empty text and the scores of each side."""
    try:
        return "", {side.name: tuple(metric.score().value for metric in side.metrics) for side in sides}
    except (DataError, UserCodeError) as error:
        return error.message, {}


def _surely_better(best: Trial, other: Trial, level: float) -> bool:
    assert best.accuracy is not None and other.accuracy is not None  # noqa: PT018 - one fact of both
    groups = len(best.without)
    difference = best.accuracy - other.accuracy
    if groups < _FEWEST_GROUPS or difference <= 0.0:
        return False
    left = np.subtract(best.without, other.without)
    error = math.sqrt((groups - 1) / groups * float(((left - left.mean()) ** 2).sum()))
    return difference > student_t_quantile(level, groups - 1) * error


def _clearest(trial: Trial) -> str:
    return f"the outputs keep the most signal with {trial.method} ({trial.signal_to_noise_db:.1f} dB)"
