"""What the evaluations say beyond one figure: in words, by class, and which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

from enginewright.report.data import Changed, Evaluation, ReportData
from enginewright.units import percent, points, signed_points

TOP1 = "top1"
FIDELITY = "fidelity"  # the metric of recipes without labels
FOLD_BEYOND = 20  # classes; with more, only the ends of the list are open
SHOWN_WHEN_FOLDED = 10
MATRIX_UP_TO = 12  # classes; a larger confusion matrix cannot be read


@dataclass(frozen=True)
class ClassChange:
    """One class before and after. `change` is a share: -0.02 is two points lost; None where either side has no figure."""

    name: str
    samples: int
    reference: float | None
    engine: float | None

    @property
    def change(self) -> float | None:
        return None if self.reference is None or self.engine is None else self.engine - self.reference


@dataclass(frozen=True)
class MatrixCell:
    """Samples of the row's class that the engine took for the column's. `before`: the reference's count.

    `strength` of the cell's colour, from 0 to 1, is the square root of its share of the row, so that a few mistakes still show.
    """

    samples: int
    strength: float
    before: int | None
    right: bool


@dataclass(frozen=True)
class ConfusionRow:
    name: str
    cells: tuple[MatrixCell, ...]


def evaluation_sentences(data: ReportData) -> tuple[str, ...]:
    """How the engine was judged, in words; empty where it was not."""
    after = data.engine.evaluation
    if after is None:
        return ()
    samples = f"{after.samples:,} samples"
    sentences = []
    if after.metric == FIDELITY:
        sentences.append(
            f"There are no labels, so the engine is judged by how closely it follows the reference's outputs, on {samples}."
        )
    else:
        engine = "engine that ships" if data.pending is None else "engine's twin"
        sentences.append(f"The {engine} and the reference were run on the same {samples} of the test set.")
    if after.interval is not None:
        sentences.append(f"Intervals hold at {after.confidence * 100:g} % confidence.")
    if after.changed is not None:
        sentences.append(_changed_sentence(after.changed, after.metric))
    if after.agreement is not None:
        sentences.append(f"The engine's largest output is the reference's on {percent(after.agreement)} of them.")
    return tuple(sentences)


def class_changes(data: ReportData) -> tuple[ClassChange, ...]:
    """Every class of the engine's evaluation, worst change first; ties, and classes without a change, in the order of the data."""
    if data.engine.evaluation is None:
        return ()
    before = {entry.name: entry for entry in data.reference.evaluation.per_class} if data.reference.evaluation else {}
    changes = [
        ClassChange(
            entry.name, entry.samples, before[entry.name].accuracy if entry.name in before else None, entry.accuracy
        )
        for entry in data.engine.evaluation.per_class
    ]
    return tuple(sorted(changes, key=lambda entry: float("inf") if entry.change is None else round(entry.change, 9)))


def confusion_rows(data: ReportData) -> tuple[ConfusionRow, ...]:
    """The engine's confusion matrix with the reference's counts; empty where there is none or it is too large to read."""
    after = data.engine.evaluation
    if after is None or not after.confusion or len(after.confusion) > MATRIX_UP_TO:
        return ()
    before = data.reference.evaluation
    earlier = before.confusion if before is not None and len(before.confusion) == len(after.confusion) else ()
    return tuple(
        ConfusionRow(name, _cells(counts, earlier[index] if earlier else None, index))
        for index, (name, counts) in enumerate(zip(_names(after), after.confusion, strict=True))
    )


def _changed_sentence(changed: Changed, metric: str) -> str:
    """The samples that changed sides; their difference is the change of the metric only where that is plain accuracy."""
    counted = f"The engine gets {changed.broken:,} wrong that the reference gets right, and {changed.fixed:,} the other way round"
    if metric != TOP1:
        return f"{counted}."
    low, high = (-bound for bound in reversed(changed.interval))
    return f"{counted}: {points(-changed.drop)} ({signed_points(low)} to {signed_points(high)})."


def _names(evaluation: Evaluation) -> tuple[str, ...]:
    return evaluation.classes or tuple(str(index) for index in range(len(evaluation.confusion)))


def _cells(counts: tuple[int, ...], before: tuple[int, ...] | None, index: int) -> tuple[MatrixCell, ...]:
    total = sum(counts) or 1
    return tuple(
        MatrixCell(count, (count / total) ** 0.5, None if before is None else before[column], column == index)
        for column, count in enumerate(counts)
    )
