"""Attention transfer compares where two networks look; what cannot be compared is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.builder.recoverer import Coloured, Net, Recoverer, curve, seeded, stacked
from torch import Tensor, nn

from enginewright.errors import DataError
from enginewright.training.features import attention_distance, attention_map


class Wider(Net):
    """A teacher with more channels than its student."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 12, 3), nn.Linear(12, 4)


class Finer(Wider):
    """A teacher whose maps are larger."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)


class Forgetful(Net):
    """Has a module that it does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(3, 8, 3)


DISTILL = {"temperature": 2.0, "weight": 0.5, "features": ["conv"], "feature_weight": 3.0}


def expected_distance(ours: Tensor, theirs: Tensor) -> float:
    """The formula of the paper, sample by sample."""
    total = 0.0
    for mine, other in zip(ours.double().numpy(), theirs.double().numpy(), strict=True):
        maps = [np.mean(features**2, 0).ravel() for features in (mine, other)]
        first, second = (values / np.linalg.norm(values) for values in maps)
        total += float(((first - second) ** 2).sum())
    return total / len(ours)


def test_the_distance_is_that_of_the_paper_whatever_the_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(3, channels, 4, 5, generator=generator) for channels in (2, 7))
    assert float(attention_distance("x", ours, theirs)) == pytest.approx(expected_distance(ours, theirs), rel=1e-5)
    assert float(attention_distance("x", ours, ours * -3)) == pytest.approx(0, abs=1e-6)  # only where, not how much
    assert attention_map(ours).shape == (3, 20)
    assert attention_map(torch.zeros(1, 2, 3)).isfinite().all()


def test_it_adds_to_the_loss_by_its_weight_and_is_off_without_names(recoverer: Recoverer) -> None:
    """One batch that holds the whole split, so the epoch's loss is that of the starting weights."""
    recoverer.teacher_factory = Wider
    student, teacher = seeded(seed=1), seeded(Wider, seed=2)

    def loss(**changed: object) -> float:
        return curve(recoverer.run(student, teacher, batch_size=64, distill={**DISTILL, **changed}))[1]["loss"]

    images, _ = stacked(Coloured(64))
    distance = expected_distance(student.conv(images).detach(), teacher.conv(images).detach())
    assert distance > 0.001
    assert loss() - loss(features=[]) == pytest.approx(3 * distance, rel=1e-3)
    assert loss(feature_weight=1.0) - loss(features=[]) == pytest.approx(distance, rel=1e-3)


def test_the_student_learns_to_look_where_the_teacher_looks(recoverer: Recoverer) -> None:
    recoverer.teacher_factory = Wider
    student, teacher = seeded(seed=1), seeded(Wider, seed=2)
    distill = {"temperature": 2.0, "weight": 0.0, "features": ["conv"], "feature_weight": 50.0}
    ran = recoverer.run(student, teacher, epochs=4, learning_rate=0.02, distill=distill)
    losses = [point["loss"] for point in curve(ran)[1:]]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("names", "whose", "hint"), [(["cnov"], "student", "did you mean 'conv'?"), (["zzz"], "student", "conv, head")]
)
def test_a_name_that_is_no_module_is_refused_with_the_nearest(
    names: list[str], whose: str, hint: str, recoverer: Recoverer
) -> None:
    with pytest.raises(DataError, match=rf"features names '{names[0]}', which is no module of the {whose}") as caught:
        recoverer.run(seeded(), distill={**DISTILL, "features": names})
    assert hint in caught.value.hint


def test_a_module_that_only_the_student_has_is_missed_in_the_teacher(recoverer: Recoverer) -> None:
    recoverer.factory, recoverer.teacher_factory = Forgetful, Net
    with pytest.raises(DataError, match="names 'spare', which is no module of the teacher"):
        recoverer.run(seeded(Forgetful), seeded(), distill={**DISTILL, "features": ["spare"]})


def test_maps_of_different_sizes_are_refused_with_both_sizes(recoverer: Recoverer) -> None:
    recoverer.teacher_factory = Finer
    with pytest.raises(DataError, match="features of 'conv' are 6x6 in the student and 8x8 in the teacher"):
        recoverer.run(seeded(), seeded(Finer), distill=DISTILL)


def test_a_module_without_positions_or_that_is_not_run_is_refused(recoverer: Recoverer) -> None:
    with pytest.raises(DataError, match=r"'head', which gives the shape \[16, 4\] in the student"):
        recoverer.run(seeded(), distill={**DISTILL, "features": ["head"]})
    recoverer.factory = Forgetful
    with pytest.raises(DataError, match="'spare', which is not run in the student"):
        recoverer.run(seeded(Forgetful), distill={**DISTILL, "features": ["spare"]})


def test_a_teacher_with_other_classes_is_refused(recoverer: Recoverer) -> None:
    class More(Net):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 5)

    recoverer.teacher_factory = More
    with pytest.raises(DataError, match=r"student gives scores of shape \[16, 4\], and the teacher \[16, 5\]"):
        recoverer.run(seeded(), seeded(More), distill=DISTILL)
