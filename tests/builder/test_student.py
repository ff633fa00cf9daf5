"""A student starts from its factory's weights and from what it can take over of the teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builder.lone_stage import LoneStage, Ran, model_of
from tests.builder.recoverer import SHAPE, Net, same, seeded, weights
from torch import nn

from enginewright.checkpoint import load_checkpoint, save_checkpoint
from enginewright.errors import DataError, UserCodeError


class Wider(Net):
    """Another head, one more layer, and the convolution of the teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(image))


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "teacher", seeded(seed=3).state_dict(), ())
    return tmp_path / "teacher"


def make(lone: LoneStage, factory: Any, *, seed: int = 0, **inputs: Path) -> Ran:
    lone.module("model", Net=factory)
    return lone.run("student", {"model": model_of(SHAPE), "seed": seed}, **inputs)


def test_tensors_of_the_same_name_and_shape_are_the_teachers(lone: LoneStage, teacher: Path) -> None:
    ran = make(lone, Wider, teacher=teacher)
    theirs, ours = load_checkpoint(teacher)[0], weights(ran)
    assert ran.outcome.summary == {"inherited": "2 of 6 tensors"}
    for name in ("conv.weight", "conv.bias"):
        assert torch.equal(ours[name], theirs[name])
    assert ours["head.weight"].shape == (6, 8)
    assert load_checkpoint(ran.output("checkpoint"))[1] == ()


def test_without_a_teacher_all_is_the_factorys_and_the_seed_decides(lone: LoneStage) -> None:
    first, again, other = (make(lone, Wider, seed=seed) for seed in (0, 0, 1))
    assert first.outcome.summary == {"inherited": "0 of 6 tensors"}
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))


def test_a_tensor_of_another_type_is_not_taken_over(lone: LoneStage, tmp_path: Path) -> None:
    state = {name: value.double() for name, value in seeded().state_dict().items()}
    save_checkpoint(tmp_path / "teacher", state, ())
    assert make(lone, Net, teacher=tmp_path / "teacher").outcome.summary == {"inherited": "0 of 4 tensors"}


@pytest.mark.parametrize(
    ("factory", "error", "words"),
    [
        (lambda: 7, DataError, "gave a int"),
        (lambda: nn.Linear(5, 4), UserCodeError, "running the network failed"),
    ],
)
def test_a_factory_that_makes_no_such_network_is_refused(
    factory: Any, error: type[Exception], words: str, lone: LoneStage
) -> None:
    with pytest.raises(error, match=words):
        make(lone, factory)
