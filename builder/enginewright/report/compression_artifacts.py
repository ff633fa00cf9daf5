"""From the JSON artifacts of the steps that compress to what the report shows of them. Raises StoreError that names the
artifact and the place in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginewright.errors import StoreError
from enginewright.report.compression_data import (
    Assignment,
    Block,
    BlockRemoval,
    Compression,
    Epoch,
    Frontier,
    FrontierPoint,
    LayerPrecision,
    MethodChoice,
    MethodTrial,
    Precision,
    TimeSaved,
    Training,
)
from enginewright_runtime.canonical import Json
from enginewright_runtime.json_field import JsonField

_LONGEST_NAME = 10_000  # characters; exporters build a node's name from the path of its module
_ASSIGNMENTS = {"float": "all float", "int8": "all int8", "chosen": "chosen"}


@dataclass(frozen=True)
class CompressionArtifacts:
    """What a build leaves of its compress steps, as parsed JSON; None where no step made it. `curves`: by the name of
    the step that trained, in order. `frontier` is what benchmarks/frontier.py measured of this network, on its own.
    """

    precision: Json = None
    blocks: Json = None
    scales: Json = None
    curves: Mapping[str, Json] = field(default_factory=dict)
    frontier: Json = None


def compression_from_artifacts(artifacts: CompressionArtifacts) -> Compression:
    return Compression(
        precision=None if artifacts.precision is None else precision_from_json(artifacts.precision),
        blocks=None if artifacts.blocks is None else blocks_from_json(artifacts.blocks),
        calibration=None if artifacts.scales is None else calibration_from_json(artifacts.scales),
        trainings=tuple(training_from_json(step, curve) for step, curve in artifacts.curves.items()),
        frontier=None if artifacts.frontier is None else frontier_from_json(artifacts.frontier),
    )


def precision_from_json(artifact: Json) -> Precision:
    """Parse the artifact of `assign_precision`, format 1."""
    root = _versioned(artifact, "precision")
    latencies, accuracies = root.field("latency_ns"), root.field("accuracy")
    return Precision(
        chosen=root.field("chosen").text(),
        reason=root.field("reason").text(),
        modelled=root.field("time").text(pattern="measured|modelled", rule="must be measured or modelled")
        == "modelled",
        bound=_number(root.field("accuracy_drop")),
        split=root.field("split").text(),
        assignments=tuple(
            Assignment(words, latencies.field(name).number(), accuracies.field(name).number())
            for name, words in _ASSIGNMENTS.items()
        ),
        layers=tuple(
            LayerPrecision(
                name=item.field("name").text(longest=_LONGEST_NAME),
                precision=item.field("precision").text(),
                saved=_time_saved(item.field("saving_ns")),
                saved_alone=_time_saved(item.field("saving_alone_ns")),
                ratio_db=item.field("snr_db").number(),
                drop=item.field("accuracy_drop").number(),
            )
            for item in root.field("layers").items()
        ),
    )


def blocks_from_json(artifact: Json) -> BlockRemoval:
    """Parse the artifact of `prune_blocks`, format 1."""
    root = _versioned(artifact, "blocks")
    return BlockRemoval(
        samples=root.field("samples").integer(),
        loss_before=root.field("loss_before").number(),
        loss_after=root.field("loss_after").number(),
        latency_before_ns=root.field("latency_before_ns").number(),
        latency_after_ns=root.field("latency_after_ns").number(),
        blocks=tuple(
            Block(
                name=item.field("name").text(longest=_LONGEST_NAME),
                loss_rise=item.field("loss_rise").number(),
                saved=_time_saved(item.field("saved_ns")),
                macs=item.field("macs").integer(),
                parameters=item.field("parameters").integer(),
                order=None if (order := item.field("order")).value is None else order.integer(least=1),
            )
            for item in root.field("blocks").items()
        ),
    )


def calibration_from_json(artifact: Json) -> MethodChoice | None:
    """Parse what `calibrate` adds to its scales where it chose the method itself; None where the recipe names one."""
    root = JsonField(artifact, "scales", StoreError)
    if "auto" not in root.mapping():
        return None
    auto = root.field("auto")
    return MethodChoice(
        chosen=auto.field("chosen").text(),
        reason=auto.field("reason").text(),
        held_back=auto.field("held_back").integer(),
        float_accuracy=_number(auto.field("float_accuracy")),
        trials=tuple(
            MethodTrial(
                item.field("method").text(),
                item.field("signal_to_noise_db").number(),
                _number(item.field("accuracy")),
            )
            for item in auto.field("methods").items()
        ),
    )


def training_from_json(step: str, artifact: Json) -> Training:
    """Parse the artifact `curve` of a step that trained."""
    root = JsonField(artifact, f"the curve of {step}", StoreError)
    epochs = tuple(
        Epoch(
            item.field("epoch").integer(),
            _number(item.field("loss")),
            item.field("validation").number(),
        )
        for item in root.items()
    )
    if not epochs:
        raise root.refuse("must hold an epoch")
    return Training(step, epochs)


def frontier_from_json(artifact: Json) -> Frontier:
    """Parse what benchmarks/frontier.py wrote, format 2."""
    root = _versioned(artifact, "frontier", version=2)
    return Frontier(
        protocol=root.field("protocol").text(longest=_LONGEST_NAME),
        reference_ms=root.field("reference_ms").field("median").number(),
        points=tuple(_frontier_point(item) for item in root.field("points").items()),
    )


def _frontier_point(item: JsonField) -> FrontierPoint:
    latency, interval = item.field("latency_ms"), item.field("interval")
    ends = None if interval.value is None else [end.number() for end in interval.items()]
    if ends is not None and len(ends) != 2:
        raise interval.refuse("must be the low and the high end")
    return FrontierPoint(
        name=item.field("label").text(),
        latency_ms=latency.field("median").number(),
        latency_range_ms=(latency.field("low").number(), latency.field("high").number()),
        change=item.field("change").number(),
        change_interval=None if ends is None else (ends[0], ends[1]),
        int8=item.field("int8").boolean(),
    )


def _versioned(artifact: Json, document: str, *, version: int = 1) -> JsonField:
    root = JsonField(artifact, document, StoreError)
    found = root.field("format")
    if found.value != version:
        raise found.refuse(f"must be {version}")
    return root


def _number(found: JsonField) -> float | None:
    return None if found.value is None else found.number()


def _time_saved(found: JsonField) -> TimeSaved:
    figures = [item.number() for item in found.items()]
    if len(figures) != 3:
        raise found.refuse("must be the low end, the median and the high end")
    low_ns, median_ns, high_ns = figures
    return TimeSaved(low_ns, median_ns, high_ns)
