"""What accuracy means: hand-counted values, Wilson's figures from the literature, and refusals that name the fault."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.builder.lone_stage import LoneStage

from enginewright.errors import DataError, UserCodeError
from enginewright.metrics import Metric, make_metric

# true class, called class
PAIRS = [(0, 0)] * 3 + [(0, 1)] + [(1, 1)] * 2 + [(2, 0)]
CONFUSION = [[3, 1, 0], [0, 2, 0], [1, 0, 0]]


def built_in(name: str) -> Metric:
    return make_metric({"name": name}, Path())


def feed(metric: Metric, pairs: list[tuple[int, int]], classes: int = 3, *, batch: int = 2) -> Metric:
    for start in range(0, len(pairs), batch):
        truths, calls = zip(*pairs[start : start + batch], strict=True)
        scores = np.eye(classes, dtype=np.float32)[list(calls)]
        metric.update({"scores": scores, "boxes": -scores}, np.asarray(truths), None)
    return metric


def test_top1_is_the_share_of_right_calls_and_counts_them_by_true_class() -> None:
    score = feed(built_in("top1"), PAIRS).score()
    assert score.value == 5 / 7
    assert score.confusion is not None
    assert score.confusion.tolist() == CONFUSION


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_the_interval_of_top1_is_wilsons(right: int, total: int, low: float, high: float) -> None:
    """The last row is the worked example of Newcombe (1998), table I."""
    score = feed(built_in("top1"), [(0, 0)] * right + [(0, 1)] * (total - right)).score()
    assert score.interval == pytest.approx((low, high), abs=5e-5)


def test_balanced_accuracy_is_the_mean_over_the_classes_that_are_there() -> None:
    assert feed(built_in("balanced_accuracy"), PAIRS).score().value == pytest.approx((3 / 4 + 1 + 0) / 3)
    absent = feed(built_in("balanced_accuracy"), PAIRS, classes=5).score()
    assert absent.value == pytest.approx((3 / 4 + 1 + 0) / 3)


def test_always_calling_the_common_class_is_rewarded_by_top1_and_not_by_balanced_accuracy() -> None:
    pairs = [(0, 0)] * 90 + [(1, 0)] * 10
    assert feed(built_in("top1"), pairs).score().value == 0.9
    assert feed(built_in("balanced_accuracy"), pairs).score().value == 0.5


def test_the_interval_of_balanced_accuracy_is_that_of_the_resampled_classes() -> None:
    """With one class it is a plain binomial, whose quantiles scipy gives."""
    score = feed(built_in("balanced_accuracy"), [(0, 0)] * 150 + [(0, 1)] * 50).score()
    expected = stats.binom.ppf([0.025, 0.975], 200, 152 / 204) / 200
    assert score.interval == pytest.approx(expected, abs=0.011)


def test_a_class_with_few_samples_and_no_error_does_not_claim_certainty() -> None:
    few = feed(built_in("balanced_accuracy"), [(0, 0)] * 3 + [(1, 1)] * 3).score()
    many = feed(built_in("balanced_accuracy"), [(0, 0)] * 300 + [(1, 1)] * 300).score()
    assert few.value == many.value == 1.0
    assert few.interval is not None
    assert many.interval is not None
    assert few.interval[0] < 0.7 < 0.98 < many.interval[0]
    assert few.interval[1] == 1.0


def test_the_same_calls_give_the_same_interval_again() -> None:
    assert feed(built_in("balanced_accuracy"), PAIRS).score().interval == (
        feed(built_in("balanced_accuracy"), PAIRS, batch=7).score().interval
    )


def test_fidelity_compares_with_the_reference_and_looks_at_no_label() -> None:
    metric = built_in("fidelity")
    ours = np.array([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    theirs = np.array([[0.4, 0.6], [0.9, 0.1], [0.2, 0.8], [0.0, 1.0]])
    metric.update({"scores": ours}, None, {"scores": theirs})
    assert metric.score().value == 0.75


def test_fidelity_without_a_reference_is_refused() -> None:
    with pytest.raises(DataError, match="compares with the outputs of the reference"):
        built_in("fidelity").update({"scores": np.eye(2)}, None, None)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "needs labels, and the data gives none"),
        (np.array([0.0, 1.0]), r"labels are float64 of shape \[2\] beside scores of shape \[2, 2\]"),
        (np.array([True, False]), "labels are bool"),
        (np.array([[0, 1], [1, 0]]), r"of shape \[2, 2\] beside"),
        (np.array([0, 2]), "labels run from 0 to 2, but the network has 2 classes"),
        (np.array([-1, 1]), "labels run from -1 to 1"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_what_is_wrong(labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        built_in("top1").update({"scores": np.eye(2)}, labels, None)
    assert caught.value.hint


def test_scores_for_every_pixel_are_counted_by_pixel() -> None:
    metric = built_in("top1")
    scores = np.zeros((1, 2, 2, 3))
    scores[..., 1] = 1.0
    metric.update({"scores": scores}, np.array([[[1, 1], [1, 0]]]), None)
    assert metric.score().value == 0.75


def test_what_a_metric_keeps_does_not_grow_with_the_samples() -> None:
    metric = built_in("top1")
    scores, labels = np.eye(8, dtype=np.float32)[np.arange(1000) % 8], np.arange(1000) % 8
    metric.update({"scores": scores}, labels, None)
    tracemalloc.start()
    for _ in range(200):
        metric.update({"scores": scores}, labels, None)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000
    assert metric.score().confusion.tolist() == (np.eye(8, dtype=int) * 125 * 201).tolist()


def test_another_number_of_classes_from_one_batch_to_the_next_is_refused() -> None:
    metric = feed(built_in("top1"), PAIRS)
    with pytest.raises(DataError, match="scores for 3 classes, and now for 2"):
        metric.update({"scores": np.eye(2)}, np.arange(2), None)


class Recall:
    """A user's metric with an argument; what it was given is kept."""

    def __init__(self, of: int) -> None:
        self.of, self.seen = of, [0, 0]

    def update(self, outputs: Any, labels: Any) -> None:
        assert set(outputs) == {"scores"}
        self.seen[0] += int(((outputs["scores"].argmax(-1) == labels) & (labels == self.of)).sum())
        self.seen[1] += int((labels == self.of).sum())

    def compute(self) -> Any:
        return np.float64(self.seen[0] / self.seen[1])


def of_user(lone: LoneStage, metric: object, **arguments: object) -> Metric:
    lone.module("metric", Made=metric)
    return make_metric({"factory": "metric:Made", "arguments": arguments}, Path("code"))


def test_a_users_metric_gets_its_arguments_the_outputs_and_the_labels(lone: LoneStage) -> None:
    metric = of_user(lone, Recall, of=1)
    metric.update({"scores": np.eye(2)[[0, 1, 1]]}, np.array([1, 1, 0]), None)
    score = metric.score()
    assert (metric.name, score.value, score.interval, score.confusion) == ("metric:Made", 0.5, None, None)


def test_a_users_metric_that_raises_is_shown_as_the_users(lone: LoneStage) -> None:
    metric = of_user(lone, Recall, of=1)
    with pytest.raises(UserCodeError, match=r"metric:Made\.update failed with AssertionError") as caught:
        metric.update({"boxes": np.eye(2)}, np.array([1, 1]), None)
    assert "test_metrics.py" in caught.value.traceback
    with pytest.raises(UserCodeError, match=r"metric:Made\.compute failed with ZeroDivisionError"):
        metric.score()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_users_metric_that_is_not_finite_is_refused(value: float, lone: LoneStage) -> None:
    class Broken:
        def compute(self) -> float:
            return value

    with pytest.raises(DataError, match="the metric metric:Made gave") as caught:
        of_user(lone, Broken).score()
    assert "finite" in caught.value.hint


def test_a_users_metric_that_gives_no_number_is_shown_as_the_users(lone: LoneStage) -> None:
    class Silent:
        def compute(self) -> None:
            return None

    with pytest.raises(UserCodeError, match=r"metric:Made\.compute failed with TypeError"):
        of_user(lone, Silent).score()
