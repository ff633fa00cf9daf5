"""What the compiler made of the network, layer by layer: what it fused, what that takes, and what int8 costs besides. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from enginewright.report.engine_data import EngineLayers, QuantizerPair
from enginewright.units import NONE, counted, microseconds, percent, times
from enginewright_runtime.tensorrt.comparison import Comparison, Part, compare
from enginewright_runtime.tensorrt.engine_layers import EngineLayer

__all__ = ["EngineView", "LayerRow", "PartRow", "engine_view"]

_SHOWN_NAMES = 8
SHOWN_PARTS = 12  # in the chart, and in the table of what int8 makes slower


@dataclass(frozen=True)
class LayerRow:
    """One layer. `floor` is the least time of the operations of its nodes; `share` that of the time of all layers."""

    name: str
    kind: str
    precision: str
    time: str
    share: float | None
    floor: str
    remark: str


@dataclass(frozen=True)
class PartRow:
    """Nodes that both engines compute apart from the others, and the time of their layers."""

    name: str
    int8_ns: int
    float16_ns: int

    @property
    def change(self) -> str:
        """How many times as fast int8 is."""
        return times(self.float16_ns / self.int8_ns) if self.int8_ns and self.float16_ns else NONE


@dataclass(frozen=True)
class EngineView:
    """Everything that the section shows of one engine. `parts`: those that take the most time, the longest first; none
    where there is no engine in float16, or nothing was timed.
    """

    sentences: tuple[str, ...]
    pairs: tuple[str, ...]
    rows: tuple[LayerRow, ...]
    parts: tuple[PartRow, ...]
    slower: tuple[PartRow, ...]
    timed: bool
    floors: bool

    @property
    def longest(self) -> float:
        return max((row.share or 0.0 for row in self.rows), default=0.0) or 1.0


def engine_view(found: EngineLayers) -> EngineView:
    compared = compare(found.layers, found.float16, wanted=found.wanted)
    timed = any(layer.time_ns is not None for layer in found.layers)
    both = timed and any(layer.time_ns is not None for layer in found.float16)
    rows = _layer_rows(found)
    return EngineView(
        sentences=(_counts(found), *_time_sentences(found, compared, timed=timed), *_wanted_sentences(found, compared)),
        pairs=broken_pairs(found),
        rows=rows,
        parts=_part_rows(sorted(compared.parts, key=_longest_ns, reverse=True)) if both else (),
        slower=_part_rows(compared.to_blame) if both else (),
        timed=timed,
        floors=any(row.floor for row in rows),
    )


def broken_pairs(found: EngineLayers) -> tuple[str, ...]:
    """The Q/DQ pairs that cost a fusion, each with the layers at fault, in words.

    A pair at an input of the network has nothing to be fused with, so a layer of its own is no loss there.
    """
    holders = _holders(found.layers)
    told = []
    for pair in found.quantization.pairs:
        alone = _distinct(
            layer for node in pair.nodes for layer in holders.get(node, ()) if _only_quantizes(layer, found)
        )
        parted = _parted(pair, holders) if pair.splits else ()
        if not pair.before or not (alone or parted):
            continue
        words = []
        if alone:
            words.append(f"fused with nothing, computed by {_layers(alone, found)}")
        if parted:
            words.append(f"what it stands between is computed apart, by {_layers(parted, found)}")
        told.append(f"{_place(pair)}: {'; '.join(words)}.")
    return tuple(told)


def _counts(found: EngineLayers) -> str:
    integer = sum(layer.precision == "int8" and not layer.reformat for layer in found.layers)
    reformats = sum(layer.reformat for layer in found.layers)
    return (
        f"{counted(len(found.layers), 'layer')}: {integer:,} in int8, {reformats:,} that only reformat, and "
        f"{len(found.layers) - integer - reformats:,} others."
    )


def _time_sentences(found: EngineLayers, compared: Comparison, *, timed: bool) -> tuple[str, ...]:
    if not timed:
        return ("The time of each layer was not taken.",)
    share = compared.reformat_ns / compared.int8_ns if compared.int8_ns else 0.0
    beside = ""
    if found.float16:
        there = any(layer.reformat for layer in found.float16)
        took = f"they take {microseconds(compared.float16_reformat_ns)}" if there else "there are none"
        beside = f"; in the float16 engine {took}"
    cost = f"take {microseconds(compared.reformat_ns)}, {percent(share)} of the time of all layers"
    said = (
        f"The layers that only reformat {cost}{beside}." if compared.reformats else f"No layer only reformats{beside}."
    )
    method = (
        f"Times are medians of {counted(found.runs, 'inference')} under TensorRT's profiler, which waits for each layer: "
        f"their sum, {microseconds(compared.int8_ns)}, is more than an inference takes."
    )
    return said, method


def _wanted_sentences(found: EngineLayers, compared: Comparison) -> tuple[str, ...]:
    said = []
    if compared.fallbacks:
        said.append(
            f"Computed in another precision, though the network's Q/DQ pairs ask for int8: {_some(compared.fallbacks)}."
        )
    elif found.wanted:
        said.append("Nothing that the network's Q/DQ pairs ask int8 for is computed in another precision.")
    if found.dla:
        on_gpu = [
            _title(layer, found) for layer in found.layers if layer.multiplies and "dla" not in layer.kind.lower()
        ]
        there = f"these layers fell back to the GPU: {_some(on_gpu)}" if on_gpu else "no product fell back to the GPU"
        said.append(f"The engine was to run on a DLA; {there}.")
    return tuple(said)


def _layer_rows(found: EngineLayers) -> tuple[LayerRow, ...]:
    total_ns = sum(layer.time_ns or 0 for layer in found.layers)
    holders = _holders(found.layers)
    return tuple(
        LayerRow(
            name=_title(layer, found),
            kind=layer.kind,
            precision=_precision(layer),
            time=NONE if layer.time_ns is None else microseconds(layer.time_ns),
            share=None if layer.time_ns is None or not total_ns else layer.time_ns / total_ns,
            floor=_floor(layer, holders, found.floors_ns),
            remark=_remark(layer, found),
        )
        for layer in found.layers
    )


def _remark(layer: EngineLayer, found: EngineLayers) -> str:
    if _only_quantizes(layer, found):
        return "Q/DQ alone"
    return "reformat" if layer.reformat else ""


def _floor(layer: EngineLayer, holders: Mapping[str, Sequence[EngineLayer]], floors_ns: Mapping[str, float]) -> str:
    """The operations of its nodes; empty where none is known. A node may be in several layers: then its operations are in
    the one that multiplies.
    """
    least_ns = sum(floors_ns.get(node, 0.0) for node in layer.nodes if _computes(layer, holders[node]))
    return f"\N{GREATER-THAN OR EQUAL TO} {microseconds(least_ns)}" if least_ns else ""


def _computes(layer: EngineLayer, among: Sequence[EngineLayer]) -> bool:
    return len(among) == 1 or [other for other in among if other.multiplies] == [layer]


def _holders(layers: Iterable[EngineLayer]) -> dict[str, list[EngineLayer]]:
    """The layers that a node is in."""
    found: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        for node in layer.nodes:
            found.setdefault(node, []).append(layer)
    return found


def _only_quantizes(layer: EngineLayer, found: EngineLayers) -> bool:
    return bool(layer.nodes) and found.quantization.nodes.issuperset(layer.nodes)


def _precision(layer: EngineLayer) -> str:
    """What it reads, and what it writes where that is another."""
    if layer.writes and layer.writes != layer.precision:
        return f"{layer.precision or '?'} \N{RIGHTWARDS ARROW} {layer.writes}"
    return layer.precision or NONE


def _part_rows(parts: Iterable[Part]) -> tuple[PartRow, ...]:
    return tuple(PartRow(_some(part.nodes, " + "), part.int8_ns, part.float16_ns) for part in list(parts)[:SHOWN_PARTS])


def _longest_ns(part: Part) -> int:
    return max(part.int8_ns, part.float16_ns)


def _parted(pair: QuantizerPair, holders: Mapping[str, Sequence[EngineLayer]]) -> tuple[EngineLayer, ...]:
    """The layers of the product before the pair and of what is behind it, where no layer has both."""
    before = holders.get(pair.before, ())
    behind = [layer for node in pair.after for layer in holders.get(node, ())]
    apart = before and behind and not any(layer in behind for layer in before)
    return _distinct((*before, *behind)) if apart else ()


def _distinct(layers: Iterable[EngineLayer]) -> tuple[EngineLayer, ...]:
    return tuple(dict.fromkeys(layers))


def _place(pair: QuantizerPair) -> str:
    """The nodes of the pair stand in the names of the layers."""
    after = f"before {' and '.join(pair.after)}" if pair.after else "at an output of the network"
    return f"{pair.quantize}, behind {pair.before} and {after}"


def _layers(layers: Sequence[EngineLayer], found: EngineLayers) -> str:
    """Their names, with the time of each that was timed."""
    return " and ".join(
        _title(layer, found) + (f" ({microseconds(layer.time_ns)})" if layer.time_ns is not None else "")
        for layer in layers
    )


def _title(layer: EngineLayer, found: EngineLayers) -> str:
    """The nodes fused in it, of very many the first, without those that only quantize; a layer without any has the
    compiler's own name.
    """
    working = [node for node in layer.nodes if node not in found.quantization.nodes]
    return _some(working or layer.nodes, " + ") or layer.name or "(unnamed)"


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = len(names) - _SHOWN_NAMES
    return between.join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
