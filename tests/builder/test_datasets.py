"""Samples become batches as the recipe's inputs say, and a sample that does not fit is named with what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.builder.lone_stage import DATA, LoneStage, Samples, model_of

from enginewright.datasets import Split, class_names, load_data, load_split
from enginewright.errors import DataError, UserCodeError
from enginewright.signature import InputSpec, Signature

IMAGE = Signature({"image": InputSpec(("batch", 2, 3), "float32")}, ("scores",))
TWO = Signature({"left": InputSpec(("batch", 2), "float32"), "right": InputSpec(("batch",), "int64")}, ("scores",))
TOKENS = Signature({"tokens": InputSpec(("batch", "length"), "int64")}, ("scores",))


def split_of(samples: Any, signature: Signature = IMAGE) -> Split:
    return Split("test", samples, signature)


def read(samples: Any, signature: Signature = IMAGE) -> Any:
    """The only batch of all samples."""
    (batch,) = split_of(samples, signature).batches(len(samples))
    return batch


def numbered(count: int) -> list[tuple[np.ndarray, int]]:
    return [(np.full((2, 3), index, np.float32), index) for index in range(count)]


def test_every_sample_comes_once_in_order_and_the_last_batch_is_smaller() -> None:
    batches = list(split_of(numbered(7)).batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert np.concatenate([batch.labels for batch in batches]).tolist() == list(range(7))
    assert np.concatenate([batch.inputs["image"][:, 0, 0] for batch in batches]).tolist() == list(range(7))


def test_an_order_is_followed_and_may_leave_samples_out() -> None:
    batches = list(split_of(numbered(7)).batches(2, order=[6, 0, 3]))
    assert [batch.labels.tolist() for batch in batches] == [[6, 0], [3]]


def test_samples_are_read_when_their_batch_is_asked_for_and_not_before() -> None:
    asked: list[int] = []

    class Watched(Samples):
        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    batches = split_of(Watched(100, (2, 3))).batches(4)
    next(batches)
    assert asked == [0, 1, 2, 3]


def test_a_split_that_reads_many_samples_at_once_is_asked_for_a_batch() -> None:
    class Many(Samples):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [(np.full((2, 3), -index, np.float32), index) for index in indices]

    (batch,) = split_of(Many(3, (2, 3))).batches(3)
    assert batch.inputs["image"][:, 0, 0].tolist() == [0, -1, -2]


def test_values_take_the_dtype_of_the_input_and_labels_keep_theirs() -> None:
    batch = read([([[1, 2, 3], [4, 5, 6]], 3), (np.ones((2, 3), np.float64), 1)])
    assert batch.inputs["image"].dtype == np.float32
    assert batch.inputs["image"][0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch.labels.dtype.kind == "i"


def test_torch_tensors_are_samples_and_labels_too() -> None:
    torch = pytest.importorskip("torch")
    batch = read([(torch.full((2, 3), 2.0), torch.tensor(3)), (torch.zeros(2, 3), torch.tensor(0))])
    assert batch.inputs["image"][0, 0, 0] == 2.0
    assert batch.labels.tolist() == [3, 0]


def test_without_labels_there_are_none() -> None:
    assert read(Samples(3, (2, 3), label=None)).labels is None


def test_a_dict_gives_each_input_by_its_name_in_any_order() -> None:
    batch = read([({"right": 7, "left": [1.0, 2.0]}, 0), ({"left": [3.0, 4.0], "right": 8}, 1)], TWO)
    assert list(batch.inputs) == ["left", "right"]
    assert batch.inputs["left"].tolist() == [[1, 2], [3, 4]]
    assert batch.inputs["right"].tolist() == [7, 8]
    assert batch.inputs["right"].dtype == np.int64


def test_labels_of_any_one_shape_are_stacked() -> None:
    samples = [(np.zeros((2, 3)), np.full((4, 5), index)) for index in range(3)]
    assert read(samples).labels.shape == (3, 4, 5)


GOOD = np.zeros((2, 3), np.float32)
FAULTS: dict[str, tuple[Sequence[Any], Signature, str]] = {
    "no pair": ([GOOD], IMAGE, r"sample 0 of the split 'test' is a ndarray, expected a pair \(inputs, label\)"),
    "three parts": ([(GOOD, 1, "name")], IMAGE, "sample 0 of the split 'test' is a tuple, expected a pair"),
    "wrong shape": (
        [(GOOD, 0), (GOOD.T, 0)],
        IMAGE,
        r"sample 1 of the split 'test', input 'image' has the shape \[3, 2\], expected \[2, 3\]",
    ),
    "a batch dimension": ([(GOOD[None], 0)], IMAGE, r"has the shape \[1, 2, 3\], expected \[2, 3\]"),
    "NaN": ([(GOOD, 0), (GOOD * np.nan, 0)], IMAGE, "sample 1 of .* 'image' holds NaN or infinity"),
    "too large for the dtype": ([(np.full((2, 3), 1e300), 0)], IMAGE, "holds NaN or infinity"),
    "text": ([([["a"] * 3] * 2, 0)], IMAGE, "sample 0 of .* 'image' cannot be read as an array of float32"),
    "ragged": ([([[1, 2, 3], [4]], 0)], IMAGE, "cannot be read as an array of float32"),
    "one array for two inputs": ([(GOOD, 0)], TWO, "is one array, but the network has 2 inputs"),
    "an input too few": ([({"left": [1, 2]}, 0)], TWO, r"has the inputs \['left'\]"),
    "an unknown input": ([({"left": [1, 2], "wright": 1}, 0)], TWO, r"has the inputs \['left', 'wright'\]"),
    "sizes that differ": (
        [([1, 2, 3], 0), ([1, 2], 0)],
        TOKENS,
        r"sample 1 of .* 'tokens' has the shape \[2\], and sample 0 has \[3\]",
    ),
    "labels for some": ([(GOOD, 1), (GOOD, None)], IMAGE, "labels of the samples 0.. of .* are None for 1 of 2"),
    "ragged labels": ([(GOOD, [1, 2]), (GOOD, [1])], IMAGE, "the labels of .* cannot be read as an array"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sample_that_does_not_fit_is_named_with_what_is_wrong(fault: str) -> None:
    samples, signature, words = FAULTS[fault]
    with pytest.raises(DataError, match=words) as caught:
        read(samples, signature)
    assert caught.value.hint


def test_a_free_size_may_differ_from_batch_to_batch() -> None:
    batches = list(split_of([([1, 2, 3], 0), ([4, 5], 1)], TOKENS).batches(1))
    assert [batch.inputs["tokens"].tolist() for batch in batches] == [[[1, 2, 3]], [[4, 5]]]


def test_a_split_that_gives_fewer_samples_than_asked_for_is_refused() -> None:
    class Short(Samples):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[index] for index in indices[1:]]

    with pytest.raises(DataError, match="gave 2 samples where 3 were asked for"):
        next(split_of(Short(3, (2, 3))).batches(3))


def test_a_sample_that_raises_is_shown_as_the_users() -> None:
    class Broken(Samples):
        def __getitem__(self, index: int) -> Any:
            raise OSError("the disk is gone")

    with pytest.raises(
        UserCodeError, match=r"reading the samples 4\.\. of the split 'test' failed with OSError"
    ) as caught:
        list(split_of(Broken(9, (2, 3))).batches(4, order=[4, 5]))
    assert "in __getitem__" in caught.value.traceback
    assert "datasets.py" not in caught.value.traceback.replace("test_datasets.py", "")


def test_the_factory_is_called_with_the_recipes_arguments(lone: LoneStage) -> None:
    lone.module("data", Made=lambda **arguments: arguments)
    step = lone.step({"data": {"factory": "data:Made", "arguments": {"root": "here", "size": 3}}})
    assert load_data(step) == {"root": "here", "size": 3}


def load(lone: LoneStage, name: str) -> Split:
    step = lone.step({"data": DATA, "model": model_of((2, 3))})
    return load_split(load_data(step), name, step)


def test_a_split_knows_its_name_its_size_and_the_networks_inputs(lone: LoneStage) -> None:
    lone.data(test=Samples(5, (2, 3)))
    split = load(lone, "test")
    assert (split.name, len(split), split.signature.outputs) == ("test", 5, ("scores",))
    (batch,) = split.batches(5)
    assert batch.inputs["image"].shape == (5, 2, 3)


@pytest.mark.parametrize(
    ("splits", "error", "words"),
    [
        ({}, DataError, "gives no split 'test', which step 'lone' needs"),
        ({"test": None}, DataError, "gives no split 'test'"),
        ({"test": []}, DataError, "the split 'test' is empty"),
        ({"test": iter([1])}, UserCodeError, r"len\(\) of the split 'test' failed with TypeError"),
    ],
)
def test_a_split_that_cannot_be_used_is_named(
    splits: dict[str, Any], error: type[Exception], words: str, lone: LoneStage
) -> None:
    lone.data(**splits)
    with pytest.raises(error, match=words):
        load(lone, "test")


def test_a_split_that_is_made_when_asked_for_may_fail_as_the_users(lone: LoneStage) -> None:
    class Lazy:
        @property
        def test(self) -> Any:
            raise KeyError("no such camera")

    lone.module("data", Made=Lazy)
    with pytest.raises(UserCodeError, match="making the split 'test' failed with KeyError"):
        load(lone, "test")


@pytest.mark.parametrize(
    ("classes", "expected"), [(["red", "green"], ("red", "green")), (range(2), ("0", "1")), (None, None)]
)
def test_names_of_classes_are_optional(classes: Any, expected: Any, lone: LoneStage) -> None:
    lone.data(**({} if classes is None else {"classes": classes}))
    assert class_names(load_data(lone.step({"data": DATA}))) == expected


@pytest.mark.parametrize(
    ("shape", "asked", "size", "whole"),
    [(("batch", 3), 32, 32, 70), ((8, 3), 32, 8, 64), ((1, 3), 32, 1, 70), ((100, 3), 32, 100, 0)],
)
def test_a_fixed_batch_size_is_kept_and_part_of_a_batch_does_not_count(
    shape: tuple[int | str, ...], asked: int, size: int, whole: int
) -> None:
    signature = Signature({"image": InputSpec(shape, "float32")}, ("scores",))
    assert signature.batch_size(asked) == size
    assert signature.whole_batches(70) == whole
