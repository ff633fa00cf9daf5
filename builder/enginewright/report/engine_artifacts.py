"""From the files of an engine's layers to report data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from enginewright.report.engine_data import EngineLayers, Quantization
from enginewright.report.quantizer_pairs import quantization_of
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.canonical import Json, strict_json
from enginewright_runtime.errors import BundleError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.tensorrt.engine_layers import EngineLayer

__all__ = ["engine_layers", "engine_layers_of"]

_FORMATS = (1, 2)  # of layers.json. 1: without times.
_FLOORS_FORMAT = 1
_LONGEST_NAME = 100_000  # characters: TensorRT names a layer after every node that it has fused


def engine_layers_of(bundle: Bundle, entry: EngineEntry, *, wanted: Sequence[str]) -> EngineLayers | None:
    """The layers of an engine in a bundle, and of its twin in float16; None where the bundle has none.

    `wanted` are the nodes that the network asks int8 for. Raises BundleError that names the file and the place in it.
    """
    folder = f"engines/{entry.fingerprint}"
    name, twin = f"{folder}/layers.json", f"{folder}/float16-layers.json"
    if name not in bundle.contents:
        return None
    model = bundle.read("model.onnx") if "model.onnx" in bundle.contents else None
    source = f"{bundle.path}: {name}"
    found = engine_layers(bundle.read(name), model, entry.settings, wanted=wanted, source=source)
    if found is None or twin not in bundle.contents:
        return found and replace(found, floors_ns=_floors(bundle))
    float16, _ = _layers(bundle.read(twin), f"{bundle.path}: {twin}")
    return replace(found, float16=float16, floors_ns=_floors(bundle))


def engine_layers(
    stored: bytes,
    model: bytes | None,
    settings: Mapping[str, Json],
    *,
    wanted: Sequence[str],
    source: str = "layers.json",
) -> EngineLayers | None:
    """The layers of an engine alone, from the file that tells them; None where it tells of none. Raises BundleError.

    `model` is the network with its Q/DQ pairs, None where it is not known; `settings` are the engine's.
    """
    layers, runs = _layers(stored, source)
    if not layers:
        return None
    return EngineLayers(
        layers=layers,
        runs=runs,
        wanted=tuple(wanted),
        quantization=Quantization() if model is None else quantization_of(model),
        dla=settings.get("dla_core") is not None,
    )


def _layers(stored: bytes, source: str) -> tuple[tuple[EngineLayer, ...], int]:
    """The layers, and of how many inferences their times are the medians."""
    root = _document(stored, source)
    version = root.field("format")
    if version.value not in _FORMATS:
        raise version.refuse(f"must be one of {', '.join(map(str, _FORMATS))}")
    runs = root.field("runs").integer() if "runs" in root.mapping() else 0
    return tuple(_layer(item) for item in root.field("layers").items()), runs


def _layer(item: JsonField) -> EngineLayer:
    time_ns = item.field("time_ns") if "time_ns" in item.mapping() else None
    return EngineLayer(
        name=item.field("name").text(longest=_LONGEST_NAME),
        kind=item.field("kind").text(),
        nodes=tuple(node.text(longest=_LONGEST_NAME) for node in item.field("nodes").items()),
        precision=item.field("precision").text(),
        writes=item.field("writes").text(),
        reformat=item.field("reformat").boolean(),
        multiplies=item.field("multiplies").boolean(),
        time_ns=None if time_ns is None or time_ns.value is None else time_ns.integer(),
    )


def _floors(bundle: Bundle) -> Mapping[str, float]:
    """The floor of each node's operations. That of its bytes is none for a layer of several nodes, or in a cache."""
    if "floors.json" not in bundle.contents:
        return {}
    root = _document(bundle.read("floors.json"), f"{bundle.path}: floors.json")
    if root.field("format").value != _FLOORS_FORMAT:
        raise root.field("format").refuse(f"must be {_FLOORS_FORMAT}")
    return {
        row.field("name").text(longest=_LONGEST_NAME): row.field("compute_floor_ns").number()
        for row in root.field("layers").items()
        if row.field("compute_floor_ns").value is not None
    }


def _document(stored: bytes, source: str) -> JsonField:
    try:
        return JsonField(strict_json(stored), source, BundleError)
    except ValueError as error:
        raise BundleError(f"{source}: not valid JSON: {error}") from None
