"""What a report says, parsed and frozen: the pack stage fills it, the renderers only read it.

Everything here was known when the engine was packed, or is in the bundle; nothing depends on whether a step was reused, on the
clock or on the place of the store, because the report is part of the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginewright.report.engine_data import EngineLayers, GpuTiming
from enginewright_runtime.budget import Finding, Verdict, overall
from enginewright_runtime.measurement import Protocol


@dataclass(frozen=True)
class Fact:
    """A name and what was found under it: a version, a property of the host, a condition."""

    name: str
    value: str


@dataclass(frozen=True)
class StepRecord:
    """One step of the chain. `outputs` gives each artifact's name and size."""

    name: str
    stage: str
    seconds: float
    outputs: tuple[StepOutput, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class StepOutput:
    name: str
    size_bytes: int


@dataclass(frozen=True)
class ClassAccuracy:
    name: str
    samples: int
    accuracy: float | None  # None: the test set has no sample of this class


@dataclass(frozen=True)
class OutputNoise:
    """How far above the difference from the reference an output's signal stands."""

    output: str
    ratio_db: float


@dataclass(frozen=True)
class Changed:
    """Paired comparison on the same test samples: `broken` were right before and are wrong now, `fixed` the reverse.

    `drop` and `interval` are shares: 0.01 is one point lost.
    """

    broken: int
    fixed: int
    drop: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """What one engine reached on the test set. `confusion[true][predicted]` counts samples; shares run from 0 to 1."""

    metric: str
    samples: int
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float = 0.95
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    per_class: tuple[ClassAccuracy, ...] = ()
    agreement: float | None = None
    signal_to_noise: tuple[OutputNoise, ...] = ()
    changed: Changed | None = None


@dataclass(frozen=True)
class Layer:
    """One node of a network. `ratio_db`: signal to noise of its output against the reference, where it was taken."""

    name: str
    op: str
    macs: int
    weights: int
    weight_bytes: int
    output_shape: tuple[int | str, ...]
    precision: str
    ratio_db: float | None = None


@dataclass(frozen=True)
class Network:
    """The reference or the engine. `peak_memory_bytes`: the most memory that a process running it held, over the sessions."""

    size_bytes: int
    evaluation: Evaluation | None
    layers: tuple[Layer, ...]
    peak_memory_bytes: int | None = None

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def int8_nodes(self) -> tuple[str, ...]:
        """The nodes that its Q/DQ pairs ask int8 for."""
        return tuple(layer.name for layer in self.layers if layer.precision == "int8")


@dataclass(frozen=True)
class SessionSamples:
    """The raw latencies that one session's fresh processes gave, in nanoseconds, in the order they were taken.

    There are none of the reference where the engine was measured alone.
    """

    reference_ns: tuple[int, ...]
    engine_ns: tuple[int, ...]


@dataclass(frozen=True)
class Latency:
    """Every sample of a measurement and how they were taken."""

    protocol: Protocol
    sessions: tuple[SessionSamples, ...]

    @property
    def reference_ns(self) -> Sequence[int]:
        return [sample for session in self.sessions for sample in session.reference_ns]

    @property
    def engine_ns(self) -> Sequence[int]:
        return [sample for session in self.sessions for sample in session.engine_ns]


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


@dataclass(frozen=True)
class FloorRow:
    """The roofline floors of a layer on the target: no latencies. None where a rate of the target is not known."""

    name: str
    precision: str
    compute_ns: float | None
    memory_ns: float | None
    bound: str


@dataclass(frozen=True)
class Pending:
    """An engine that runs elsewhere: why, and the command that finishes it there.

    `compiled`: it is in the bundle, and only its run is pending. `power_mode`: in which the target is to be measured; None
    where it has no modes. `checked_by`: what parsed and built the structure here;
    empty where nothing did. `not_int8`: the int8 layers that are float there.
    """

    reason: str
    command: str
    compiled: bool
    power_mode: str | None
    checked_by: str
    not_int8: tuple[str, ...]
    floors: tuple[FloorRow, ...]
    total_floor_ns: float | None


@dataclass(frozen=True)
class DeviceRun:
    """An engine of the bundle that a device compiled, or took as it was, and measured.

    The reference of `latency` is the same network in float16 beside it, which held `float16_peak_bytes`; None without one.
    `gpu_words` tell the GPU, empty without one. `gpu_bytes`: of the most memory, what was on the GPU. `evaluation` is of this
    engine on the device; None where only its twin was evaluated.
    """

    fingerprint: str
    device: str
    gpu_words: str
    findings: tuple[Finding, ...]
    size_bytes: int
    peak_memory_bytes: int
    gpu_bytes: int
    latency: Latency
    host: tuple[Fact, ...]
    conditions: tuple[Fact, ...]
    settings: tuple[Fact, ...]
    float16_peak_bytes: int | None = None
    evaluation: Evaluation | None = None
    gpu: GpuTiming | None = None
    layers: EngineLayers | None = None

    @property
    def verdict(self) -> Verdict:
        return overall(self.findings)


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows. `recipe` is the recipe's text as rendered.

    `latency` is with warm caches, `latency_evicted` with evicted ones; None where nothing was measured. `engine_layers` are
    those of the engine that the build itself measured, `devices` what others measured since; `verdict` is then theirs.
    """

    name: str
    summary: str
    target: str
    target_summary: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    recipe: str
    steps: tuple[StepRecord, ...]
    reference: Network
    engine: Network
    latency: Latency | None
    versions: tuple[Fact, ...]
    host: tuple[Fact, ...]
    conditions: tuple[Fact, ...]
    warnings: tuple[str, ...] = ()
    latency_evicted: Latency | None = None
    compression: Compression = Compression()
    pending: Pending | None = None
    engine_layers: EngineLayers | None = None
    devices: tuple[DeviceRun, ...] = ()

    @property
    def metric(self) -> str:
        """The metric that both sides were judged by; empty where nothing was evaluated."""
        return next(
            (side.metric for side in (self.engine.evaluation, self.reference.evaluation) if side is not None), ""
        )
