"""Ranges that training with simulated int8 has learned, by the layer of the torch network whose input they are for, and
the tensors of the ONNX network that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from enginewright.errors import DataError
from enginewright.graph.methods import Range
from enginewright.graph.normal_form import normal_form
from enginewright.graph.rules import Kind, kind
from enginewright.graph.topology import Topology

__all__ = ["LearnedRanges", "learned_ranges", "module_ranges_from_json", "module_ranges_to_json"]

FORMAT = 1  # of the JSON form. 1: the first.


def module_ranges_to_json(modules: Mapping[str, Range]) -> dict[str, object]:
    """{"format", "modules": {path: {"input": [low, high]}}}."""
    return {
        "format": FORMAT,
        "modules": {path: {"input": [range_.low, range_.high]} for path, range_ in modules.items()},
    }


def module_ranges_from_json(json: object) -> dict[str, Range]:
    """Read the JSON form. Raises DataError for a newer format, and for what is no such form."""
    if not isinstance(json, dict) or not isinstance(json.get("format"), int):
        raise DataError("these are no ranges of modules: the key 'format' is missing")
    if json["format"] > FORMAT:
        raise DataError(
            f"these ranges of modules have format {json['format']}, newer than {FORMAT}",
            hint="use a newer enginewright",
        )
    try:
        pairs = {str(path): entry["input"] for path, entry in json["modules"].items()}
        return {path: Range(float(low), float(high)) for path, (low, high) in pairs.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError("these are no ranges of modules: an entry is no pair of numbers under 'input'") from error


@dataclass(frozen=True)
class LearnedRanges:
    """`tensors`: the range of each tensor. `missing`: the layers whose node was not found, so that calibration alone says
    what their inputs cover.
    """

    tensors: Mapping[str, Range]
    missing: tuple[str, ...]


def learned_ranges(network: onnx.ModelProto, modules: Mapping[str, Range]) -> LearnedRanges:
    """The range of each tensor of `network`, in normal form, that a layer with a learned range reads.

    `modules`: path of a layer of the torch network -> the range of its input. A node is the layer's if it bears that
    name, or its weight or bias does with `.weight` or `.bias` behind it. A tensor that such a layer alone reads, through
    operators that move values (a flattening, a pool that selects, a concatenation), takes the range as well, because
    its integers are the same; where layers ask one tensor for different ranges, it has the union.
    """
    view = Topology(normal_form(network))
    read: dict[str, Range] = {}
    found: set[str] = set()
    for node in view.nodes:
        path = next((name for name in _names(node) if name in modules), None)
        if path is not None and kind(node, view) is Kind.WEIGHTED:
            found.add(path)
            _widen(read, node.input[0], modules[path], view)
    moved: dict[str, Range] = {}
    for tensor, range_ in read.items():
        for source in _sources(tensor, view):
            _widen(moved, source, range_, view)
    return LearnedRanges({**moved, **read}, tuple(path for path in modules if path not in found))


def _names(node: onnx.NodeProto) -> list[str]:
    """What the layer may be called. Simplifying gives new names to some nodes and to weights that it transposes."""
    weights = [name.removesuffix(".weight") for name in node.input[1:2] if name.endswith(".weight")]
    biases = [name.removesuffix(".bias") for name in node.input[2:3] if name.endswith(".bias")]
    return [node.name, *weights, *biases]


def _widen(ranges: dict[str, Range], tensor: str, range_: Range, view: Topology) -> None:
    producer = view.producer(tensor)
    if producer is not None and kind(producer, view) is Kind.RECTIFIER:
        # Nothing there is below zero, and a backend absorbs the rectifier only where the range says so.
        range_ = Range(max(range_.low, 0.0), max(range_.high, 0.0))
    ranges[tensor] = ranges[tensor].union(range_) if tensor in ranges else range_


def _sources(tensor: str, view: Topology) -> list[str]:
    """The tensors whose values `tensor` holds, and that nothing else reads."""
    node = view.producer(tensor)
    found = kind(node, view) if node is not None else Kind.OTHER
    if node is None or found not in (Kind.SAME_VALUES, Kind.CONCAT):
        return []
    read = node.input if found is Kind.CONCAT else node.input[:1]
    own = [name for name in read if len(view.consumers(name)) == 1 and name not in view.outputs]
    return [*own, *(source for name in own for source in _sources(name, view))]
