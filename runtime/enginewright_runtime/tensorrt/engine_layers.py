"""What TensorRT says of the layers of an engine that it has built: their precision, the nodes in them, the reformats.

From the inspector of an engine that is open (JSON), or from the builder's log, where TensorRT-RTX lists the layers
though no GPU is there to open the engine. The times come from its profiler.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from enginewright_runtime.canonical import Json

__all__ = ["EngineLayer", "layers_from_inspector", "layers_from_log", "layers_to_json", "with_times"]

FORMAT = 2  # of the JSON form. 1: the first. 2: `time_ns`, and of how many runs it is the median.

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# How data types are written in the formats and in the data types of both sources; the first that fits counts.
_PRECISIONS = (
    ("int8", re.compile(r"(?<!u)int8", re.IGNORECASE)),
    ("float8", re.compile(r"fp8|float8", re.IGNORECASE)),
    ("bfloat16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("float16", re.compile(r"fp16|half|float16", re.IGNORECASE)),
    ("float32", re.compile(r"fp32|float", re.IGNORECASE)),
    ("integer", re.compile(r"int32|int64|bool|uint8", re.IGNORECASE)),
)
_PRODUCTS = re.compile(r"conv|correlation|gemm|deconv|matrixmultiply|fully", re.IGNORECASE)


@dataclass(frozen=True)
class EngineLayer:
    """A layer of the engine, in which TensorRT may have fused several nodes of the network.

    `precision` is that of what it reads: in which it computes, if it multiplies. `reformat`: it only moves data from
    one layout or type to another. `time_ns` is None where it was not timed.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    precision: str
    writes: str
    reformat: bool
    multiplies: bool
    time_ns: int | None = None


def layers_from_inspector(text: str) -> tuple[EngineLayer, ...]:
    """The layers of an open engine, from its inspector's JSON. Raises ValueError where it is none.

    An engine that was built without details tells only names.
    """
    listed = json.loads(text)["Layers"]
    return tuple(_from_json(item) for item in listed)


def layers_from_log(lines: Iterable[str]) -> tuple[EngineLayer, ...]:
    """The layers that a builder listed in its log; none where it listed none."""
    report = next((line for line in lines if line.startswith("Layers:")), "")
    return tuple(_from_line(line) for line in report.partition("\n\n")[0].splitlines()[1:] if line.startswith("Name:"))


def with_times(layers: Sequence[EngineLayer], times_ns: Mapping[str, Sequence[int]]) -> tuple[EngineLayer, ...]:
    """The layers with the times that the profiler took, which it gives by the layer's name, one for each layer of it."""
    left = {name: iter(times) for name, times in times_ns.items()}
    return tuple(replace(layer, time_ns=next(left.get(layer.name, iter(())), None)) for layer in layers)


def layers_to_json(layers: Sequence[EngineLayer], *, runs: int = 0) -> dict[str, Json]:
    """The JSON form: {"format", "runs", "layers": [{...}]}; `runs`: of how many the times are the medians."""
    listed: list[Json] = [{**asdict(layer), "nodes": list(layer.nodes)} for layer in layers]
    return {"format": FORMAT, "runs": runs, "layers": listed}


def _from_json(item: Any) -> EngineLayer:
    if isinstance(item, str):
        return _layer(item, "", _fused(item), "", "")
    reads = "; ".join(_types(tensor) for tensor in item.get("Inputs", ()))
    writes = "; ".join(_types(tensor) for tensor in item.get("Outputs", ()))
    name = item.get("Name", "")
    nodes = _NODE.findall(item["Metadata"]) if item.get("Metadata") else _fused(name)
    return _layer(name, item.get("LayerType", ""), nodes, reads, writes)


def _types(tensor: Any) -> str:
    return " ".join(str(tensor[key]) for key in ("Format/Datatype", "Datatype", "Format") if key in tensor)


def _from_line(line: str) -> EngineLayer:
    name = re.match(r"Name: (.*?), LayerType: ", line)
    kind = re.search(r", LayerType: ([^,]*)", line)
    reads = line.partition("Inputs: ")[2].partition("Constants: ")[0].partition("Outputs: ")[0]
    writes = line.partition("Outputs: ")[2].partition("TacticName: ")[0]
    return _layer(
        name[1] if name else "",
        kind[1] if kind else "",
        _NODE.findall(line.rpartition("Metadata: ")[2]),
        "; ".join(re.findall(r"Datatype: \w+", reads)),
        "; ".join(re.findall(r"Datatype: \w+", writes)),
    )


def _layer(name: str, kind: str, nodes: Sequence[str], reads: str, writes: str) -> EngineLayer:
    # A convolution that also adds a float tensor reads int8 first: what it multiplies comes first.
    first = reads.partition(";")[0]
    return EngineLayer(
        name=name,
        kind=kind,
        nodes=tuple(dict.fromkeys(nodes)),
        precision=_precision(first),
        writes=_precision(writes.partition(";")[0]),
        reformat="reformat" in kind.lower() or name.startswith("Reformatting"),
        multiplies=bool(_PRODUCTS.search(kind)) and "reformat" not in kind.lower(),
    )


def _fused(name: str) -> list[str]:
    """The nodes as a layer's name lists them, where no metadata does: before 8.6, and where a version leaves them out.

    Names of weights may be among them.

    >>> _fused("conv1.weight + QuantizeLinear_3 + conv1 + PWN(relu1)")
    ['conv1.weight', 'QuantizeLinear_3', 'conv1', 'relu1']
    """
    if name.startswith(("Reformatting", "{ForeignNode")):
        return []
    return [re.sub(r"^PWN\((.*)\)$", r"\1", part) for part in re.split(r" \+ | \|\| ", name)]


def _precision(types: str) -> str:
    return next((name for name, pattern in _PRECISIONS if pattern.search(types)), "")
