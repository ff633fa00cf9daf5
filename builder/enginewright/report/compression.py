"""What the section on compression says: which precision, blocks and calibration method were chosen, and why."""

from __future__ import annotations

from dataclasses import dataclass

from enginewright.report.comparison import Figure
from enginewright.report.compression_data import (
    BlockRemoval,
    Frontier,
    MethodChoice,
    Precision,
    TimeSaved,
    Training,
)
from enginewright.units import (
    NONE,
    counted,
    milliseconds,
    percent,
    signed_microseconds,
    signed_points,
    significant,
    times,
)

ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class AssignmentRow:
    """The network with one precision for each layer; `times_faster` and `change` are against the one that is all float."""

    name: str
    latency: str
    times_faster: str
    accuracy: str
    change: str
    chosen: bool


@dataclass(frozen=True)
class FrontierRow:
    """A way to compress the network, `number` being its label in the chart."""

    number: int
    name: str
    latency: str
    times_faster: str
    change: str
    not_beaten: bool


@dataclass(frozen=True)
class TrainingRow:
    """A training in figures: the epoch that was kept of how many, and what validation and loss were before and then."""

    step: str
    kept: str
    validation: str
    loss: str


def frontier_rows(frontier: Frontier) -> tuple[FrontierRow, ...]:
    """One row for each point, in the order of their numbers."""
    return tuple(
        FrontierRow(
            number,
            point.name,
            milliseconds(point.latency_ms * 1e6),
            times(frontier.reference_ms / point.latency_ms),
            signed_points(point.change),
            point in frontier.not_beaten,
        )
        for number, point in enumerate(frontier.points, 1)
    )


def precision_sentence(precision: Precision) -> str:
    """What was chosen, why, and where the times come from."""
    layers = precision.layers
    if not layers:
        return "No layer of the network can compute in int8."
    kept = sum(layer.stays_float for layer in layers)
    everywhere = "the only layer" if len(layers) == 1 else f"all {len(layers):,} layers"
    if kept == 0:
        chosen = f"int8 in {everywhere}"
    elif kept == len(layers):
        chosen = f"float in {everywhere}"
    else:
        others = "the other" if kept == 1 else f"the other {kept:,}"
        chosen = f"int8 in {len(layers) - kept:,} of {len(layers):,} layers and float in {others}"
    why = precision.reason or "no assignment that was tried is faster"
    clock = (
        "the times come from a model of the target, and nothing was timed"
        if precision.modelled
        else "the times were measured on the target's backend"
    )
    return f"Chosen: {chosen}, because {why}; {clock}."


def precision_notes(precision: Precision) -> tuple[str, ...]:
    """How the tables are to be read."""
    bound = (
        "The recipe sets no bound on what int8 may cost."
        if precision.bound is None
        else f"The recipe lets int8 cost {precision.bound * 100:.2f} points of the metric."
    )
    interval = (
        " Beside it stands its 99 % interval."
        if any(layer.saved.low_ns < layer.saved.high_ns for layer in precision.layers)
        else ""
    )
    latencies = "the model's" if precision.modelled else "for choosing, side by side on one sample"
    return (
        f"{bound} The metric is taken on {precision.split} data. These latencies are {latencies}; those of the engine "
        "that ships are under Latency.",
        "Time saved is how much less time an inference takes with the layer in int8 than with it in float: above zero, "
        "int8 is faster; below, slower. It depends on the other layers: where they are float, this layer alone pays "
        f"for the conversions around it.{interval}",
        "Signal to noise and the change of the metric are what int8 in this layer alone does to the float network.",
    )


def assignment_rows(precision: Precision) -> tuple[AssignmentRow, ...]:
    """All float, all int8 and the chosen assignment; none where there was no choice."""
    if not precision.layers:
        return ()
    floating = precision.assignments[0]
    return tuple(
        AssignmentRow(
            name=item.name,
            latency=milliseconds(item.latency_ns),
            times_faster=times(floating.latency_ns / item.latency_ns) if item.latency_ns else NONE,
            accuracy=percent(item.accuracy),
            change=signed_points(item.accuracy - floating.accuracy),
            chosen=item.name == "chosen",
        )
        for item in precision.assignments
    )


def figure_of(saved: TimeSaved) -> Figure:
    """In microseconds, with the interval as its note where there is one."""
    ends = [signed_microseconds(end) for end in (saved.low_ns, saved.high_ns)]
    return Figure(
        signed_microseconds(saved.median_ns), f"{ends[0]} to {ends[1]}" if saved.low_ns < saved.high_ns else ""
    )


def blocks_sentence(removal: BlockRemoval) -> str:
    """How many blocks went, and what that did."""
    removed = sum(block.order is not None for block in removal.blocks)
    share = 1 - removal.latency_after_ns / removal.latency_before_ns if removal.latency_before_ns else 0.0
    return (
        f"{removed:,} of {counted(len(removal.blocks), 'block')} {'was' if removed == 1 else 'were'} removed. "
        f"Latency: {milliseconds(removal.latency_before_ns)} {ARROW} {milliseconds(removal.latency_after_ns)} "
        f"({percent(abs(share))} {'less' if share >= 0 else 'more'}). "
        f"Loss on {counted(removal.samples, 'training sample')}, before any recovery: "
        f"{significant(removal.loss_before)} {ARROW} {significant(removal.loss_after)}."
    )


BLOCKS_NOTE = (
    "Time saved and the rise of the loss are those of the whole network without this one block: above zero, it is faster "
    "without it. The block that raises the loss least for the time that it saves goes first, and what the others add to "
    "the loss is measured again after that."
)


def calibration_sentence(choice: MethodChoice) -> str:
    """Which method, why, and what it was judged on."""
    return (
        f"Chosen: {choice.chosen}, because {choice.reason}. All methods were tried on "
        f"{counted(choice.held_back, 'calibration sample')} that their ranges had not seen."
    )


def training_row(training: Training) -> TrainingRow:
    first, kept, last = training.epochs[0], training.kept, training.epochs[-1]
    losses = [significant(epoch.loss) for epoch in training.epochs if epoch.loss is not None]
    return TrainingRow(
        step=training.step,
        kept=f"{kept.number} of {last.number}" if kept.number else f"0 of {last.number} (as it began)",
        validation=f"{percent(first.validation)} {ARROW} {percent(kept.validation)}",
        loss=f"{losses[0]} {ARROW} {losses[-1]}" if len(losses) > 1 else losses[0] if losses else NONE,
    )
