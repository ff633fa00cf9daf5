"""Why an int8 engine is faster or slower than the same network in float16, layer by layer. Pure.

The two engines fuse differently, so layers are put together by the nodes of the network that they hold: a part is the
smallest set of nodes whose layers, in both engines, hold nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from enginewright_runtime.canonical import Json
from enginewright_runtime.tensorrt.engine_layers import EngineLayer

__all__ = ["Comparison", "Part", "compare"]

# How nodes of a pair are called: by the builder of this project, and by other tools.
_PAIRING = re.compile(r"(?:^|[/.])(?:de)?quantize(?:linear)?(?:_\d+)?$", re.IGNORECASE)
_SHOWN = 5


@dataclass(frozen=True)
class Part:
    """Some nodes of the network, and what their layers take in each of the two engines."""

    nodes: tuple[str, ...]
    int8_ns: int
    float16_ns: int

    @property
    def lost_ns(self) -> int:
        """By how much int8 is slower; negative where it is faster."""
        return self.int8_ns - self.float16_ns


@dataclass(frozen=True)
class Comparison:
    """Two engines of one network, by the times of their layers.

    reformats, reformat_ns: the layers of the int8 engine that only move data to another layout or type, and their time;
    the float16 engine's are float16_reformat_ns. alone: Q/DQ nodes that TensorRT fused with nothing: each breaks a fusion and
    is a layer of its own. fallbacks: nodes whose pairs ask for int8, and that compute in something else. parts: by what they
    lose, the worst first.
    """

    int8_ns: int
    float16_ns: int
    reformats: tuple[str, ...]
    reformat_ns: int
    float16_reformat_ns: int
    alone: tuple[str, ...]
    fallbacks: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def to_blame(self) -> tuple[Part, ...]:
        """The parts that are slower in int8."""
        return tuple(part for part in self.parts if part.lost_ns > 0)

    def lines(self) -> list[str]:
        """For people: what costs time in the int8 engine, the worst first; empty where nothing does."""
        found = []
        if self.reformat_ns > self.float16_reformat_ns:
            found.append(
                f"layers that only reformat: {len(self.reformats)}, {_us(self.reformat_ns)}; in float16 {_us(self.float16_reformat_ns)}"
            )
        if self.alone:
            found.append(f"pairs that broke a fusion: {_some(self.alone)}")
        if self.fallbacks:
            found.append(f"not in int8, though the network asks for it: {_some(self.fallbacks)}")
        found += [
            f"{_some(part.nodes)}: {_us(part.int8_ns)} in int8, {_us(part.float16_ns)} in float16"
            for part in self.to_blame[:_SHOWN]
        ]
        return found

    def to_json(self) -> dict[str, Json]:
        """Everything as a JSON object; times in nanoseconds."""
        return {
            "int8_ns": self.int8_ns,
            "float16_ns": self.float16_ns,
            "reformats": list(self.reformats),
            "reformat_ns": self.reformat_ns,
            "float16_reformat_ns": self.float16_reformat_ns,
            "alone": list(self.alone),
            "fallbacks": list(self.fallbacks),
            "parts": [
                {"nodes": list(part.nodes), "int8_ns": part.int8_ns, "float16_ns": part.float16_ns}
                for part in self.parts
            ],
        }


def compare(int8: Sequence[EngineLayer], float16: Sequence[EngineLayer], *, wanted: Iterable[str]) -> Comparison:
    """Compare the layers of an int8 engine with those of the float16 engine of the same network.

    `wanted` are the nodes that the network's pairs ask int8 for. Layers that were not timed count as 0.
    """
    reformats = [layer for layer in int8 if layer.reformat]
    integer = {node for layer in int8 if layer.precision == "int8" for node in layer.nodes}
    present = {node for layer in int8 for node in layer.nodes}
    return Comparison(
        int8_ns=_total(int8),
        float16_ns=_total(float16),
        reformats=tuple(layer.name for layer in reformats),
        reformat_ns=_total(reformats),
        float16_reformat_ns=_total(layer for layer in float16 if layer.reformat),
        alone=tuple(layer.name for layer in int8 if _is_a_pair_alone(layer)),
        fallbacks=tuple(node for node in wanted if node in present and node not in integer),
        parts=tuple(sorted(_parts(int8, float16), key=lambda part: part.lost_ns, reverse=True)),
    )


def _is_a_pair_alone(layer: EngineLayer) -> bool:
    return bool(layer.nodes) and not layer.reformat and all(_PAIRING.search(node) for node in layer.nodes)


def _parts(int8: Sequence[EngineLayer], float16: Sequence[EngineLayer]) -> list[Part]:
    """The nodes that both engines have, in the smallest sets that no layer of either crosses."""
    shared = {node for layer in int8 for node in layer.nodes} & {node for layer in float16 for node in layer.nodes}
    leader = {node: node for node in shared}

    def find(node: str) -> str:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    held = [
        (index, layer, [node for node in layer.nodes if node in shared])
        for index, layers in enumerate((int8, float16))
        for layer in layers
        if not layer.reformat
    ]
    for _, _, nodes in held:
        for node in nodes[1:]:
            leader[find(node)] = find(nodes[0])
    times: dict[str, list[int]] = {}
    members: dict[str, dict[str, None]] = {}
    for index, layer, nodes in held:
        if nodes:
            times.setdefault(find(nodes[0]), [0, 0])[index] += layer.time_ns or 0
            members.setdefault(find(nodes[0]), {}).update(dict.fromkeys(nodes))
    return [Part(tuple(members[name]), *taken) for name, taken in times.items()]


def _total(layers: Iterable[EngineLayer]) -> int:
    return sum(layer.time_ns or 0 for layer in layers)


def _us(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e3:.1f} us"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
