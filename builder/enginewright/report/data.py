"""What a report says, parsed and frozen: the pack stage fills it, the renderers only read it.

Everything here was known when the engine was packed, or is in the bundle; nothing depends on whether a step was reused, on the
clock or on the place of the store, because the report is part of the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from enginewright.report.compression_data import Compression
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
    compression: Compression = field(default_factory=Compression)
    pending: Pending | None = None
    engine_layers: EngineLayers | None = None
    devices: tuple[DeviceRun, ...] = ()

    @property
    def metric(self) -> str:
        """The metric that both sides were judged by; empty where nothing was evaluated."""
        return next(
            (side.metric for side in (self.engine.evaluation, self.reference.evaluation) if side is not None), ""
        )
