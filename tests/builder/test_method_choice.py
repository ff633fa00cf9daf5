"""The method with the most signal wins, unless the metric is surely better with another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginewright.datasets import Batch
from enginewright.errors import DataError
from enginewright.graph.method_choice import GROUPS, Trial, choose, try_methods
from enginewright.metrics import BalancedAccuracy, Metric, Top1

SAMPLES = 200


def trial(method: str, db: float, right: np.ndarray | None) -> Trial:
    """`right`: for every sample whether it is called right."""
    if right is None:
        return Trial(method, db)
    group = np.random.default_rng(1).permutation(len(right)) % GROUPS
    without = tuple(float(right[group != number].mean()) for number in range(GROUPS))
    return Trial(method, db, float(right.mean()), without)


def rights(wrong: range) -> np.ndarray:
    right = np.ones(SAMPLES)
    right[list(wrong)] = 0.0
    return right


def test_without_a_metric_the_most_signal_wins() -> None:
    choice = choose([trial("minmax", 20.0, None), trial("mse", 31.5, None), trial("entropy", 25.0, None)])
    assert (choice.method, choice.chosen_by) == ("mse", "signal to noise")
    assert "31.5 dB" in choice.reason


def test_a_few_samples_more_are_chance() -> None:
    """Three samples of 200, all in favour: a coin does that one time in eight."""
    choice = choose([trial("mse", 30.0, rights(range(3))), trial("entropy", 20.0, rights(range(0)))])
    assert (choice.method, choice.chosen_by) == ("mse", "signal to noise")


def test_many_samples_more_are_not() -> None:
    choice = choose([trial("mse", 30.0, rights(range(20))), trial("entropy", 20.0, rights(range(0)))])
    assert (choice.method, choice.chosen_by) == ("entropy", "accuracy")
    assert (
        "mse keeps the most signal (30.0 dB), but is less accurate than entropy (90.00% against 100.00%)"
        in choice.reason
    )


def test_as_many_broken_as_fixed_are_chance_however_many() -> None:
    mine, others = rights(range(0, 44)), rights(range(40, 80))
    assert choose([trial("mse", 30.0, mine), trial("entropy", 20.0, others)]).method == "mse"


def test_the_comparison_is_of_the_same_samples() -> None:
    """Both are wrong on a hundred samples, one of them on 15 more: pairs show what two shares apart would not."""
    mine, others = rights(range(115)), rights(range(100))
    assert choose([trial("mse", 30.0, mine), trial("entropy", 20.0, others)]).method == "entropy"


def test_of_the_methods_that_are_as_accurate_as_the_best_the_most_signal_wins() -> None:
    choice = choose(
        [
            trial("minmax", 40.0, rights(range(60))),
            trial("percentile", 30.0, rights(range(1))),
            trial("entropy", 20.0, rights(range(0))),
        ]
    )
    assert (choice.method, choice.chosen_by) == ("percentile", "accuracy")


def test_too_few_groups_leave_the_choice_to_the_signal() -> None:
    few = [Trial("mse", 30.0, 0.0, (0.0,) * 4), Trial("entropy", 20.0, 1.0, (1.0,) * 4)]
    assert choose(few).method == "mse"
    enough = [Trial("mse", 30.0, 0.0, (0.0,) * 5), Trial("entropy", 20.0, 1.0, (1.0,) * 5)]
    assert choose(enough).method == "entropy"


def test_chance_seldom_overrules_the_signal() -> None:
    """Four methods that are equally accurate: the one with the most signal loses in less than one of twenty cases."""
    random = np.random.default_rng(0)
    names = ("minmax", "percentile", "entropy", "mse")
    lost = 0
    for _ in range(300):
        trials = [trial(name, db, (random.uniform(size=SAMPLES) < 0.9) * 1.0) for db, name in enumerate(names)]
        lost += choose(trials).method != "mse"
    assert lost <= 15


def scaled(factor: float) -> onnx.ModelProto:
    """scores = image * factor + [0, 0.5, 0]; classes = the class that is called."""
    nodes = [
        helper.make_node("Mul", ["image", "factor"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["classes"], axis=1, keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(np.array(factor, np.float32), "factor"),
        numpy_helper.from_array(np.array([0, 0.5, 0], np.float32), "bias"),
    ]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("classes", TensorProto.INT64, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


IMAGES = np.random.default_rng(5).standard_normal((60, 3)).astype(np.float32)
SCORES = IMAGES + np.array([0, 0.5, 0], np.float32)
LABELS = SCORES.argmax(1)


def groups(count: int = 10, labels: np.ndarray | None = LABELS) -> list[Iterator[Batch]]:
    parts = np.array_split(np.arange(len(IMAGES)), count)
    return [iter([Batch({"image": IMAGES[part]}, None if labels is None else labels[part])]) for part in parts]


def tried(**changes: Any) -> Any:
    candidates = [("minmax", scaled(1.5)), ("mse", scaled(1.0)), ("entropy", scaled(-1.0))]
    settings: dict[str, Any] = {
        "outputs": ["scores", "classes"],
        "make_metric": Top1,
        "needs_labels": True,
        "threads": 1,
    }
    return try_methods(scaled(1.0), candidates, changes.pop("groups", None) or groups(), **{**settings, **changes})


def test_signal_to_noise_is_the_mean_over_the_outputs_and_indices_are_right_or_wrong() -> None:
    trials = {trial.method: trial for trial in tried().methods}
    assert trials["mse"].signal_to_noise_db == 150.0
    scores = IMAGES * np.float32(1.5) + np.array([0, 0.5, 0], np.float32)
    wrong = (scores.argmax(1) != LABELS).sum()
    expected = [(SCORES.astype(np.float64) ** 2).sum() / ((scores - SCORES) ** 2).sum(), len(LABELS) / wrong]
    assert trials["minmax"].signal_to_noise_db == pytest.approx(np.mean(10 * np.log10(expected)), rel=1e-5)


def test_the_metric_is_of_all_held_back_samples_and_of_all_without_each_group() -> None:
    trials = tried()
    called = (IMAGES * np.float32(-1.0) + np.array([0, 0.5, 0], np.float32)).argmax(1)
    right = called == LABELS
    entropy = trials.methods[2]
    assert entropy.accuracy == right.mean()
    parts = np.array_split(np.arange(60), 10)
    assert entropy.without == tuple(np.delete(right, part).mean() for part in parts)
    assert (trials.float_accuracy, trials.no_metric) == (1.0, "")


def test_without_labels_only_a_metric_that_needs_none_judges() -> None:
    trials = tried(groups=groups(labels=None))
    assert (trials.float_accuracy, trials.no_metric) == (None, "they have no labels")
    assert {(trial.accuracy, trial.without) for trial in trials.methods} == {(None, ())}

    class Agreement(Top1):
        def update(self, outputs: Any, labels: Any, reference: Any) -> None:
            super().update(outputs, reference["scores"].argmax(-1), reference)

    trials = tried(groups=groups(labels=None), make_metric=Agreement, needs_labels=False)
    assert (trials.float_accuracy, trials.methods[1].accuracy) == (1.0, 1.0)


@pytest.mark.parametrize("labels", [LABELS * 0 - 1, LABELS * 1.0])
def test_labels_that_are_none_leave_the_choice_to_the_signal(labels: np.ndarray) -> None:
    trials = tried(groups=groups(labels=labels))
    assert "label" in trials.no_metric
    assert {trial.accuracy for trial in trials.methods} == {None}


def test_a_metric_that_fails_without_one_of_the_groups_judges_nothing() -> None:
    class Fragile(BalancedAccuracy):
        def score(self) -> Any:
            if self.confusion.sum() < len(IMAGES):
                raise DataError("there is no sample of class 2")
            return super().score()

    made: list[Metric] = []

    def make() -> Metric:
        made.append(Fragile())
        return made[-1]

    trials = tried(make_metric=make)
    assert trials.no_metric == "there is no sample of class 2"
    assert len(made) == 4 * 11  # the float network's and the three candidates'
