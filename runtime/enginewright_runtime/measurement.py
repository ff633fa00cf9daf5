"""A measurement: every raw sample, and all that is needed to judge what the samples are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from enginewright_runtime.caches import Caches
from enginewright_runtime.canonical import Json, canonical_bytes, strict_json
from enginewright_runtime.chunk_conditions import Columns
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.warm_up import WarmUp, WarmUpRule

# 1: the first; 2: protocol.evicted_bytes, which was 0 before; 3: sessions[].chunk_conditions and warm_up.steady_errors;
# 4: sessions[].gpu_bytes, none of which was counted before
FORMAT = 4


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a measurement was taken; it stands beside every figure that comes from it.

    `threads` is per engine. `dropped_per_chunk` inferences at the start of each chunk are not among the samples.
    `evicted_bytes` were written before each sample where the caches were evicted, and none where they were warm.
    """

    threads: Mapping[str, int]
    interleaved: bool
    sessions: int
    rounds: int
    chunk: int
    dropped_per_chunk: int
    seed: int
    warm_up: WarmUpRule
    caches: Caches = "warm"
    evicted_bytes: int = 0
    clock: str = "wall"

    def differences(self, other: Protocol) -> list[str]:
        """In what two protocols differ that makes their figures different things, as "caches warm against evicted"."""
        return [
            f"{name} {mine} against {theirs}"
            for name, mine in vars(self).items()
            if name not in _OF_THE_NUMBER and (theirs := getattr(other, name)) != mine
        ]

    def to_json(self) -> dict[str, Json]:
        """The protocol as a JSON object."""
        return {**vars(self), "warm_up": self.warm_up.to_json()}

    @classmethod
    def from_json(cls, field: JsonField) -> Protocol:
        """Read what `to_json` wrote."""
        caches, evicted_bytes = _caches(field)
        return cls(
            threads={label: threads.integer(least=1) for label, threads in field.field("threads").fields().items()},
            interleaved=field.field("interleaved").boolean(),
            sessions=field.field("sessions").integer(least=1),
            rounds=field.field("rounds").integer(least=1),
            chunk=field.field("chunk").integer(least=1),
            dropped_per_chunk=field.field("dropped_per_chunk").integer(),
            seed=field.field("seed").integer(),
            warm_up=WarmUpRule.from_json(field.field("warm_up")),
            caches=caches,
            evicted_bytes=evicted_bytes,
            clock=field.field("clock").text(),
        )


# These say how many samples there are and in which order they came, and not what a sample is.
_OF_THE_NUMBER = ("sessions", "rounds", "seed")


def _caches(field: JsonField) -> tuple[Caches, int]:
    """The caches, and how many bytes were written to evict them; a protocol of format 1 does not say."""
    fields = field.fields()
    evicted_bytes = fields["evicted_bytes"].integer() if "evicted_bytes" in fields else 0
    caches = field.field("caches").text()
    if caches == "warm" and evicted_bytes == 0:
        return "warm", 0
    if caches == "evicted" and evicted_bytes > 0:
        return "evicted", evicted_bytes
    raise field.field("caches").refuse(f"must be warm, or evicted by some bytes (evicted_bytes is {evicted_bytes})")


@dataclass(frozen=True, kw_only=True)
class MeasuredEngine:
    """Which engine was measured: the digest and the size of its bytes, and how it was opened."""

    sha256: str
    size_bytes: int
    backend: str
    settings: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        """The engine's identity as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, field: JsonField) -> MeasuredEngine:
        """Read what `to_json` wrote."""
        return cls(
            sha256=field.field("sha256").text(),
            size_bytes=field.field("size_bytes").integer(),
            backend=field.field("backend").text(),
            settings=field.field("settings").mapping(),
        )


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """One session: fresh processes, one an engine. Every mapping is by the engine's label.

    `samples_ns` are in the order in which they were taken, one chunk a round. `cpu_ns` is the CPU time of all threads
    of a process during each chunk's samples. Evicting is in neither, and its buffer not in `peak_rss_bytes`.
    `gpu_bytes` is the memory that an engine has taken on its GPU, beyond what is resident.
    `chunk_conditions` has what enginewright_runtime.chunk_conditions reads after each chunk, where it was asked to.
    """

    samples_ns: Mapping[str, tuple[int, ...]]
    cpu_ns: Mapping[str, tuple[int, ...]]
    warm_up: Mapping[str, WarmUp]
    peak_rss_bytes: Mapping[str, int]
    conditions_before: Mapping[str, Json]
    conditions_after: Mapping[str, Json]
    chunk_conditions: Mapping[str, Columns] = dataclass_field(default_factory=dict)
    gpu_bytes: Mapping[str, int] = dataclass_field(default_factory=dict)

    def peak_memory_bytes(self, label: str) -> int:
        """The most memory that one engine's process has had, on the processor and on the GPU, its libraries included."""
        return self.peak_rss_bytes[label] + self.gpu_bytes.get(label, 0)

    def to_json(self) -> dict[str, Json]:
        """The session as a JSON object."""
        return {**vars(self), "warm_up": {label: record.to_json() for label, record in self.warm_up.items()}}

    @classmethod
    def from_json(cls, field: JsonField) -> SessionRecord:
        """Read what `to_json` wrote."""
        return cls(
            samples_ns={label: samples.integers() for label, samples in field.field("samples_ns").fields().items()},
            cpu_ns={label: times.integers() for label, times in field.field("cpu_ns").fields().items()},
            warm_up={label: WarmUp.from_json(record) for label, record in field.field("warm_up").fields().items()},
            peak_rss_bytes={label: peak.integer() for label, peak in field.field("peak_rss_bytes").fields().items()},
            conditions_before=field.field("conditions_before").mapping(),
            conditions_after=field.field("conditions_after").mapping(),
            chunk_conditions=_chunk_conditions(field),
            gpu_bytes=_gpu_bytes(field),
        )


def _gpu_bytes(session: JsonField) -> dict[str, int]:
    """None before format 4."""
    fields = session.fields()
    return (
        {label: taken.integer() for label, taken in fields["gpu_bytes"].fields().items()}
        if "gpu_bytes" in fields
        else {}
    )


def _chunk_conditions(session: JsonField) -> dict[str, Columns]:
    """None before format 3, and where nobody asked for them."""
    fields = session.fields()
    if "chunk_conditions" not in fields:
        return {}
    return {
        label: {name: tuple(_reading(item) for item in column.items()) for name, column in columns.fields().items()}
        for label, columns in fields["chunk_conditions"].fields().items()
    }


def _reading(item: JsonField) -> int | str | None:
    if item.value is None:
        return None
    return item.text() if isinstance(item.value, str) else item.integer(least=-(1 << 63))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Engines measured side by side on one host. `host` is its fingerprint."""

    host: Mapping[str, Json]
    protocol: Protocol
    engines: Mapping[str, MeasuredEngine]
    sessions: tuple[SessionRecord, ...]
    format: int = FORMAT

    def sessions_ns(self, label: str) -> tuple[tuple[int, ...], ...]:
        """The raw samples of one engine, session by session."""
        return tuple(session.samples_ns[label] for session in self.sessions)

    def peak_memory_bytes(self, label: str) -> int:
        """The most memory that any of one engine's processes has had, on the processor and on the GPU, its libraries included."""
        return max(session.peak_memory_bytes(label) for session in self.sessions)

    def gpu_bytes(self, label: str) -> int:
        """The most of it that was the GPU's."""
        return max(session.gpu_bytes.get(label, 0) for session in self.sessions)

    def with_caches(self, caches: Caches) -> Measurement:
        """This measurement; raises MeasurementError where its caches were otherwise."""
        if self.protocol.caches != caches:
            raise MeasurementError(
                f"a measurement with {caches} caches was expected, and this is {self.protocol.caches}"
            )
        return self

    def require_alike(self, other: Measurement) -> None:
        """Raises MeasurementError, which says why, where a figure of one does not compare with a figure of the other.

        Figures compare where host and protocol are the same, whatever the engines.
        """
        differences = self.protocol.differences(other.protocol)
        differences += [] if self.host == other.host else ["another host"]
        if differences:
            raise MeasurementError(f"these measurements do not compare: {', '.join(differences)}")

    def to_json(self) -> dict[str, Json]:
        """The measurement as a JSON object."""
        return {
            "format": self.format,
            "host": self.host,
            "protocol": self.protocol.to_json(),
            "engines": {label: engine.to_json() for label, engine in self.engines.items()},
            "sessions": [session.to_json() for session in self.sessions],
        }

    def to_bytes(self) -> bytes:
        """The measurement as canonical JSON bytes."""
        return canonical_bytes(self.to_json())

    @classmethod
    def from_json(cls, value: Json, *, source: str = "measurement") -> Measurement:
        """Read what `to_json` wrote; MeasurementError names `source`, the path to the fault and the rule."""
        document = JsonField(value, source, MeasurementError)
        if (version := document.field("format").integer(least=1)) > FORMAT:
            raise MeasurementError(f"{source}: format {version} is newer than this runtime reads (format {FORMAT})")
        measurement = cls(
            host=document.field("host").mapping(),
            protocol=Protocol.from_json(document.field("protocol")),
            engines={
                label: MeasuredEngine.from_json(engine) for label, engine in document.field("engines").fields().items()
            },
            sessions=tuple(SessionRecord.from_json(session) for session in document.field("sessions").items()),
        )
        measurement._check_labels(source)
        return measurement

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "measurement") -> Measurement:
        """Read what `to_bytes` wrote."""
        try:
            value = strict_json(data)
        except ValueError as error:
            raise MeasurementError(f"{source}: not valid JSON: {error}") from None
        return cls.from_json(value, source=source)

    def _check_labels(self, source: str) -> None:
        """Every session must speak of the same engines, or a figure would come from part of them."""
        wanted = set(self.engines)
        for index, session in enumerate(self.sessions):
            for name in ("samples_ns", "cpu_ns", "warm_up", "peak_rss_bytes"):
                if set(getattr(session, name)) != wanted:
                    raise MeasurementError(f"{source}: sessions[{index}].{name} must be of {', '.join(sorted(wanted))}")


def pooled_ns(label: str, *measurements: Measurement) -> list[int]:
    """All samples of one engine, session by session.

    Raises MeasurementError where the measurements are not alike or of another engine, and says in what they differ.
    """
    for other in measurements[1:]:
        measurements[0].require_alike(other)
        if other.engines[label] != measurements[0].engines[label]:
            raise MeasurementError(f"these measurements are of different engines, each called {label!r}")
    return [sample for measurement in measurements for session in measurement.sessions_ns(label) for sample in session]
