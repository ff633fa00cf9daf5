"""What a report says of compression: what was decided and why, parsed and frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimeSaved:
    """How much less time an inference takes, in nanoseconds: the median of differences between neighbours in time, and
    its interval at 99 %. Negative: it takes more.
    """

    low_ns: float
    median_ns: float
    high_ns: float


@dataclass(frozen=True)
class LayerPrecision:
    """What int8 does in one layer, and the precision that it got.

    `saved` while the other layers are int8, `saved_alone` while they are float. `drop` is the share of the metric that
    this layer alone loses in int8.
    """

    name: str
    precision: str
    saved: TimeSaved
    saved_alone: TimeSaved
    ratio_db: float
    drop: float

    @property
    def stays_float(self) -> bool:
        return self.precision == "float"


@dataclass(frozen=True)
class Assignment:
    """One choice of the precision of every layer, timed and judged as a whole."""

    name: str
    latency_ns: float
    accuracy: float


@dataclass(frozen=True)
class Precision:
    """Which layers compute in int8, and why. `assignments`: float, all int8 and the chosen one.

    `modelled`: the times come from a model of the target, not from a clock. `bound` is the share of the metric that
    int8 may cost, None where the recipe sets none. `split` is the one that the metric was taken on.
    """

    chosen: str
    reason: str
    modelled: bool
    bound: float | None
    split: str
    assignments: tuple[Assignment, ...]
    layers: tuple[LayerPrecision, ...]


@dataclass(frozen=True)
class Block:
    """A block that could be removed. `loss_rise` and `saved` are of the network without this block alone; `order`
    counts from 1, None: it stays.
    """

    name: str
    loss_rise: float
    saved: TimeSaved
    macs: int
    parameters: int
    order: int | None


@dataclass(frozen=True)
class BlockRemoval:
    """The candidates of pruning by blocks, in the order of the network. The losses are of `samples` training samples."""

    samples: int
    loss_before: float
    loss_after: float
    latency_before_ns: float
    latency_after_ns: float
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class MethodTrial:
    """A calibration method on held-back samples; `accuracy` is None where the metric could not judge them."""

    method: str
    ratio_db: float
    accuracy: float | None


@dataclass(frozen=True)
class MethodChoice:
    chosen: str
    reason: str
    held_back: int
    float_accuracy: float | None
    trials: tuple[MethodTrial, ...]


@dataclass(frozen=True)
class Epoch:
    """A point of a training; 0 is before the first epoch, and has no loss."""

    number: int
    loss: float | None
    validation: float


@dataclass(frozen=True)
class Training:
    """A step that trained, with at least the point that it began with."""

    step: str
    epochs: tuple[Epoch, ...]

    @property
    def kept(self) -> Epoch:
        """The epoch whose weights went on: the first of those with the best validation."""
        return max(self.epochs, key=lambda epoch: epoch.validation)


@dataclass(frozen=True)
class FrontierPoint:
    """One way to compress the network: `latency_ms` is the median over sessions of their p50 with its range,
    `change` that of accuracy against float, negative where some was lost, with its interval (None: not known).
    """

    name: str
    latency_ms: float
    latency_range_ms: tuple[float, float]
    change: float
    change_interval: tuple[float, float] | None
    int8: bool


@dataclass(frozen=True)
class Frontier:
    """Ways to compress the same float network, all measured in one run of their own; `protocol` is a sentence."""

    protocol: str
    reference_ms: float
    points: tuple[FrontierPoint, ...]

    @property
    def not_beaten(self) -> tuple[FrontierPoint, ...]:
        """Those than which no other is both as fast and as accurate, from the fastest on."""
        ordered = sorted(self.points, key=lambda point: (point.latency_ms, -point.change))
        return tuple(
            point
            for index, point in enumerate(ordered)
            if all(point.change > faster.change for faster in ordered[:index])
        )


@dataclass(frozen=True)
class Compression:
    """What compression decided and why, as far as the recipe left something to decide."""

    precision: Precision | None = None
    blocks: BlockRemoval | None = None
    calibration: MethodChoice | None = None
    trainings: tuple[Training, ...] = ()
    frontier: Frontier | None = None
