"""From the JSON artifacts of a build to report data: parsed once, with errors that name the artifact and the place in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginewright.errors import EnginewrightError, StoreError
from enginewright.record import Record
from enginewright.report.compression_artifacts import CompressionArtifacts, compression_from_artifacts
from enginewright.report.compression_data import Compression
from enginewright.report.conditions import condition_facts, fingerprint_facts
from enginewright.report.data import (
    Changed,
    ClassAccuracy,
    Evaluation,
    Fact,
    Latency,
    Layer,
    Network,
    OutputNoise,
    Pending,
    ReportData,
    SessionSamples,
    StepOutput,
    StepRecord,
)
from enginewright.step_summary import summarized
from enginewright_runtime.budget import Finding, Verdict, overall
from enginewright_runtime.canonical import Json
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.measurement import Measurement

FORMAT = 1  # of evaluations and layers
_LONGEST_NAME = 10_000  # characters; exporters build a node's name from the path of its module


@dataclass(frozen=True)
class NetworkArtifacts:
    """What a build leaves of one network: the size of its compiled engine, and the evaluation and layers artifacts as parsed JSON."""

    size_bytes: int
    evaluation: Json
    layers: Json


def report_data_from_artifacts(
    *,
    name: str,
    summary: str,
    target: str,
    target_summary: str,
    recipe: str,
    findings: Sequence[Finding],
    steps: Sequence[Record],
    versions: Mapping[str, str],
    reference: NetworkArtifacts,
    engine: NetworkArtifacts,
    measurement: Measurement | None,
    measurement_evicted: Measurement | None = None,
    compression: CompressionArtifacts | None = None,
    pending: Pending | None = None,
) -> ReportData:
    """Gather what the pack stage has at hand.

    `steps` are the records of all steps before, in order: their tools' versions and their warnings are shown too. `versions`
    adds those of the packing step. The measurements' engines are labelled "reference" and "engine"; `measurement` is
    with warm caches. Raises StoreError where an artifact does not have its format, MeasurementError where a
    measurement's caches are the other's.
    """
    tools = {tool: version for step in steps for tool, version in step.ingredients.tools.items()}
    return ReportData(
        name=name,
        summary=summary,
        target=target,
        target_summary=target_summary,
        verdict=_verdict(findings, pending),
        findings=tuple(findings),
        recipe=recipe,
        steps=tuple(_step(record) for record in steps),
        reference=_network(reference, measurement, "reference"),
        engine=_network(engine, measurement, "engine"),
        latency=latency_of(measurement.with_caches("warm")) if measurement else None,
        versions=tuple(Fact(tool, version) for tool, version in sorted({**tools, **versions}.items())),
        host=fingerprint_facts(measurement.host) if measurement else (),
        conditions=condition_facts(measurement) if measurement else (),
        warnings=tuple(f"{step.name}: {warning}" for step in steps for warning in step.warnings),
        latency_evicted=latency_of(measurement_evicted.with_caches("evicted")) if measurement_evicted else None,
        compression=Compression() if compression is None else compression_from_artifacts(compression),
        pending=pending,
    )


def evaluation_from_json(artifact: Json, document: str, *, error: type[EnginewrightError] = StoreError) -> Evaluation:
    """Parse an evaluation artifact, format 1. Raises `error` that names `document` and the place."""
    root = _root(artifact, document, error)
    return Evaluation(
        metric=root.field("metric").text(),
        samples=root.field("samples").integer(),
        accuracy=_number(root, "accuracy"),
        interval=_interval(root),
        confidence=root.field("confidence").number(),
        classes=tuple(item.text(longest=_LONGEST_NAME) for item in _items(root, "classes")),
        confusion=tuple(tuple(cell.integer() for cell in row.items()) for row in _items(root, "confusion")),
        per_class=tuple(
            ClassAccuracy(
                item.field("name").text(longest=_LONGEST_NAME),
                item.field("samples").integer(),
                _number(item, "accuracy"),
            )
            for item in _items(root, "per_class")
        ),
        agreement=_number(root, "agreement"),
        signal_to_noise=_signal_to_noise(_present(root, "signal_to_noise_db")),
        changed=_changed(_present(root, "changed")),
    )


def layers_from_json(artifact: Json, document: str) -> tuple[Layer, ...]:
    """Parse a layers artifact, format 1. Raises StoreError that names `document` and the place."""
    return tuple(
        Layer(
            name=item.field("name").text(longest=_LONGEST_NAME),
            op=item.field("op").text(),
            macs=item.field("macs").integer(),
            weights=item.field("weights").integer(),
            weight_bytes=item.field("weight_bytes").integer(),
            output_shape=tuple(_dimension(axis) for axis in item.field("output_shape").items()),
            precision=item.field("precision").text(),
            ratio_db=_number(item, "snr_db"),
        )
        for item in _root(artifact, document).field("layers").items()
    )


def _verdict(findings: Sequence[Finding], pending: Pending | None) -> Verdict:
    """An engine that was not measured can fail already, and cannot pass."""
    found = overall(findings)
    return found if pending is None or found is Verdict.FAIL else Verdict.PENDING


def _network(artifacts: NetworkArtifacts, measurement: Measurement | None, label: str) -> Network:
    return Network(
        size_bytes=artifacts.size_bytes,
        evaluation=evaluation_from_json(artifacts.evaluation, f"the evaluation of the {label}"),
        layers=layers_from_json(artifacts.layers, f"the layers of the {label}"),
        peak_memory_bytes=measurement.peak_memory_bytes(label) if measurement and measurement.sessions else None,
    )


def latency_of(measurement: Measurement, *, reference: str = "reference") -> Latency | None:
    """The engine's samples beside those of the engine labelled `reference`, if it was measured; None where no session was taken."""
    sessions = tuple(
        SessionSamples(session.samples_ns.get(reference, ()), session.samples_ns["engine"])
        for session in measurement.sessions
    )
    return Latency(measurement.protocol, sessions) if sessions else None


def _step(record: Record) -> StepRecord:
    outputs = tuple(StepOutput(name, artifact.size) for name, artifact in record.outputs.items())
    summary = summarized(record.summary)
    return StepRecord(record.name, record.ingredients.stage, record.seconds, outputs, summary)


def _signal_to_noise(field: JsonField | None) -> tuple[OutputNoise, ...]:
    if field is None:
        return ()
    return tuple(
        OutputNoise(output, ratio.number()) for output, ratio in field.fields().items() if ratio.value is not None
    )


def _changed(field: JsonField | None) -> Changed | None:
    if field is None:
        return None
    interval = _interval(field)
    if interval is None:
        raise field.refuse("must hold an interval")
    return Changed(
        field.field("broken").integer(), field.field("fixed").integer(), field.field("drop").number(), interval
    )


def _root(artifact: Json, document: str, error: type[EnginewrightError] = StoreError) -> JsonField:
    root = JsonField(artifact, document, error)
    version = root.field("format")
    if version.value != FORMAT:
        raise version.refuse(f"must be {FORMAT}")
    return root


def _present(field: JsonField, key: str) -> JsonField | None:
    """The value of a key; None where the key is missing or null."""
    found = field.field(key) if key in field.mapping() else None
    return None if found is None or found.value is None else found


def _items(field: JsonField, key: str) -> list[JsonField]:
    found = _present(field, key)
    return found.items() if found else []


def _number(field: JsonField, key: str) -> float | None:
    found = _present(field, key)
    return found.number() if found else None


def _interval(field: JsonField) -> tuple[float, float] | None:
    found = _present(field, "interval")
    if found is None:
        return None
    ends = [end.number() for end in found.items()]
    if len(ends) != 2:
        raise found.refuse("must be a pair")
    return ends[0], ends[1]


def _dimension(axis: JsonField) -> int | str:
    return axis.value if isinstance(axis.value, str) else axis.integer()
