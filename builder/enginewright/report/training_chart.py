"""The course of a training as inline SVG: the metric on validation data above the loss, over the same epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from enginewright.report.compression_data import Training
from enginewright.report.svg import STRETCHED_WIDTH, at, element, even_ticks, figure, path, stretched
from enginewright.units import percent

_TEXT = 15  # pixels from one line of text to the next
_VALIDATION = 72
_LOSS = 56
_LEFT, _RIGHT = 0.15, 0.97  # where the first and the last epoch stand; left of it are the labels of the axis
_LEAST_SHARE = 0.01  # of the metric: what moves less than a point looks as if it moved less
_LEAST_LOSS = 0.05  # of the largest loss, likewise
_DOTS_UP_TO = 16  # points; more of them would hide their line


def training_chart(training: Training, metric: str) -> Markup:
    """Both curves of a training, with a mark at the epoch that was kept. `metric` is its name for the caption."""
    last = max(1, training.epochs[-1].number)

    def x(epoch: int) -> float:
        return _LEFT + (_RIGHT - _LEFT) * epoch / last

    points = [(x(epoch.number), epoch.validation) for epoch in training.epochs]
    validation = _Panel(2 * _TEXT + 2, _VALIDATION, points, "engine", _LEAST_SHARE)
    losses = [(x(epoch.number), epoch.loss) for epoch in training.epochs if epoch.loss is not None]
    largest = max((abs(loss) for _, loss in losses), default=0.0)
    loss = _Panel(validation.bottom + _TEXT + 8, _LOSS, losses, "reference", _LEAST_LOSS * largest or 1.0)
    kept, kept_x = training.kept, at(x(training.kept.number))
    right = x(kept.number) > 0.5
    parts = [
        element("text", f"{metric} on validation data", x=0, y=11, class_="caption"),
        *validation.grid(lambda value: f"{value * 100:.10g} %"),
        *loss.grid(lambda value: f"{value:.10g}"),
        element("line", x1=kept_x, x2=kept_x, y1=_TEXT + 4, y2=loss.bottom, class_="mark engine"),
        element("text", "loss on training data", x=0, y=loss.top - 6, class_="caption"),
        *validation.curve(),
        *loss.curve(),
        element("circle", cx=kept_x, cy=validation.y(kept.validation), r=4.5, class_="engine"),
        element(
            "text",
            f"kept: epoch {kept.number}, {percent(kept.validation)}",
            x=kept_x,
            dx=-5 if right else 5,
            y=_TEXT + 12,
            text_anchor="end" if right else "start",
            class_="mark-label engine",
        ),
        *_epochs(last, x, loss.bottom + _TEXT - 2),
    ]
    return figure(f"{training.step}: {metric} and loss by epoch", loss.bottom + _TEXT + 4, parts)


@dataclass(frozen=True)
class _Panel:
    """One curve with its own scale. `points`: where along the chart, as a share of its width, and the value there;
    `least` is the smallest range of values that fills the panel.
    """

    top: float
    height: float
    points: Sequence[tuple[float, float]]
    kind: str
    least: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def ends(self) -> tuple[float, float]:
        values = [value for _, value in self.points] or [0.0]
        middle, span = 0.5 * (min(values) + max(values)), max(max(values) - min(values), self.least)
        return middle - 0.58 * span, middle + 0.58 * span

    def y(self, value: float) -> float:
        low, high = self.ends
        return self.top + self.height * (high - value) / (high - low)

    def grid(self, written: Callable[[float], str]) -> list[Markup]:
        parts = [element("line", x1=0, x2="100%", y1=self.bottom, y2=self.bottom, class_="axis")]
        for tick in even_ticks(*self.ends, closest=0.3):
            y = self.y(tick)
            parts.append(element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid"))
            parts.append(element("text", written(tick), x=0, y=y - 3, class_="caption"))
        return parts

    def curve(self) -> list[Markup]:
        line = [(STRETCHED_WIDTH * x, self.y(value) - self.top) for x, value in self.points]
        drawn = [stretched(self.top, self.height, path(line, class_=f"line {self.kind}"))]
        if len(line) <= _DOTS_UP_TO:
            drawn += [
                element("circle", cx=at(x), cy=self.y(value), r=2.5, class_=self.kind) for x, value in self.points
            ]
        return drawn


def _epochs(last: int, x: Callable[[int], float], y: float) -> list[Markup]:
    ticks = sorted({round(tick) for tick in even_ticks(0, last, closest=0.15)})
    labels = [element("text", str(tick), x=at(x(tick)), y=y, text_anchor="middle", class_="tick") for tick in ticks]
    return [element("text", "epoch", x=0, y=y, class_="tick"), *labels]
