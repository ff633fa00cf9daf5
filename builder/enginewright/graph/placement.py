"""Where the Q/DQ pairs go: which operators run on integers in a dialect, and which tensors therefore get a pair.

Placement reads the graph and the dialect, nothing else: no ranges, no files. It follows NVIDIA's recommendations for
TensorRT ("Working with quantized types", Q/DQ layer-placement recommendations) and the node patterns that ONNX
Runtime fuses (its `qdq_transformer`), each written down where it is used.
"""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from enginewright.errors import DataError, did_you_mean
from enginewright.graph.dialects import Dialect
from enginewright.graph.rules import Kind, kind, why_float
from enginewright.graph.topology import Topology

__all__ = ["Placement", "place", "rectified"]


@dataclass(frozen=True)
class Placement:
    """What is quantized, and why the rest is not.

    `quantized`: the names of all nodes that run on integers, in graph order.
    `kept_float`: for each product with weights that stays float, the reason as a clause.
    `range_of`: for each tensor that gets a Q/DQ pair, the tensor whose name stands for its group: one range serves a
    group.
    `calibrated`: the tensors whose ranges must be known, in graph order; the range of a group is the union of theirs.
    `replaced`: the tensors with a pair that nothing reads but the pair: their maker has an integer kernel only where
    its float output is not used.
    """

    quantized: tuple[str, ...]
    kept_float: Mapping[str, str]
    range_of: Mapping[str, str]
    calibrated: tuple[str, ...]
    replaced: frozenset[str]


def place(model: onnx.ModelProto, dialect: Dialect, *, keep_float: Sequence[str] = ()) -> Placement:
    """Decide for a network in normal form.

    `keep_float`: patterns (as of fnmatch) of layers that stay float. One matches the name of a node, that of its
    weight, or the part of it before the last dot: "head" is the layer of "head.weight".
    Raises DataError if a pattern matches nothing.
    """
    view = Topology(model)
    kept = _kept_float(view, dialect, keep_float)
    weighted = {node.name for node in view.nodes if kind(node, view) is Kind.WEIGHTED and node.name not in kept}
    plan = _Around(view, weighted) if dialect.placement == "around" else _Inputs(view, weighted)
    plan.decide()
    return plan.result(kept)


def rectified(node: onnx.NodeProto, view: Topology) -> str:
    """The tensor in which a node ends: its output, or that of the rectifier that alone reads it and fuses with it."""
    output: str = node.output[0]
    readers = view.consumers(output)
    if len(readers) == 1 and output not in view.outputs and kind(readers[0], view) is Kind.RECTIFIER:
        return str(readers[0].output[0])
    return output


def _kept_float(view: Topology, dialect: Dialect, patterns: Sequence[str]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    names: dict[str, set[str]] = {}
    for node in view.nodes:
        if kind(node, view) is not Kind.WEIGHTED:
            continue
        names[node.name] = {node.name, node.input[1], node.input[1].rpartition(".")[0]} - {""}
        if reason := why_float(node, view, dialect):
            reasons[node.name] = reason
    for pattern in patterns:
        matched = [name for name, known in names.items() if any(fnmatch.fnmatchcase(text, pattern) for text in known)]
        if not matched:
            known = sorted(set().union(*names.values())) if names else []
            raise DataError(
                f"keep_float: '{pattern}' matches no layer of the network",
                hint=did_you_mean(pattern, known, otherwise="Layers"),
            )
        reasons.update(dict.fromkeys(matched, f"keep_float names it ('{pattern}')"))
    return reasons


class _Plan(ABC):
    """What both ways of placing have in common: absorbed rectifiers, groups of one range, and the result."""

    def __init__(self, view: Topology, weighted: set[str]) -> None:
        self.view = view
        self.weighted = weighted
        self.quantized = set(weighted)
        self.tensors: set[str] = set()
        self.outputs: set[str] = set()  # tensors that a quantized node makes as integers, after its rectifier
        self.replaced: set[str] = set()
        self._group: dict[str, str] = {}
        self._derived: set[str] = set()

    @abstractmethod
    def decide(self) -> None:
        """Fill `quantized`, `tensors` and `replaced`."""

    def end(self, node: onnx.NodeProto) -> str:
        return rectified(node, self.view)

    def reaches_integers(self, tensor: str) -> bool:
        """Whether a reader of `tensor`, perhaps behind others that only move values, has an integer kernel."""
        for node in self.view.consumers(tensor):
            found = kind(node, self.view)
            if (node.name in self.weighted and node.input[0] == tensor) or found in (Kind.ADD, Kind.POOL, Kind.CONCAT):
                return True
            moves = found in (Kind.SAME_VALUES, Kind.RECTIFIER) and node.input[0] == tensor
            if moves and self.reaches_integers(node.output[0]):
                return True
        return False

    def share_range(self, tensors: Iterable[str]) -> None:
        roots = [self._root(tensor) for tensor in tensors]
        for root in roots[1:]:
            self._group[root] = roots[0]

    def derive(self, output: str, source: str) -> None:
        """`output` takes the range of `source` and needs no calibration of its own."""
        self.share_range((source, output))
        self._derived.add(output)

    def result(self, kept: Mapping[str, str]) -> Placement:
        order = {
            name: index
            for index, name in enumerate((*self.view.inputs, *(out for node in self.view.nodes for out in node.output)))
        }
        tensors = sorted(self.tensors, key=order.__getitem__)
        return Placement(
            quantized=tuple(node.name for node in self.view.nodes if node.name in self.quantized),
            kept_float=dict(kept),
            range_of={tensor: self._root(tensor) for tensor in tensors},
            calibrated=tuple(tensor for tensor in tensors if tensor not in self._derived),
            replaced=frozenset(self.replaced),
        )

    def _root(self, tensor: str) -> str:
        while tensor in self._group and self._group[tensor] != tensor:
            tensor = self._group[tensor]
        return tensor


class _Around(_Plan):
    """ONNX Runtime: DequantizeLinear before and QuantizeLinear behind every quantized operator, or it is not fused."""

    def __init__(self, view: Topology, weighted: set[str]) -> None:
        super().__init__(view, weighted)
        self.rectified: set[str] = set()  # tensors that carry on what a rectifier made: nothing below zero

    def decide(self) -> None:
        for node in self.view.nodes:
            found = kind(node, self.view)
            if node.name in self.weighted:
                self.tensors.add(node.input[0])
                # A Gemm or MatMul may give float, which keeps the logits exact. A Conv then has no integer kernel.
                if node.op_type == "Conv" or self.reaches_integers(self.end(node)):
                    self._make_integers(node, self.end(node))
            elif found is Kind.ADD and self._same_shape(node) and self._pays(node, self.end(node)):
                self._read_integers(node, node.input)
                self._make_integers(node, self.end(node))
            elif found is Kind.POOL and node.input[0] in self.outputs:
                self._read_integers(node, node.input[:1])
                self._make_integers(node, node.output[0])
            elif found is Kind.SAME_VALUES and node.input[0] in self.outputs and self.reaches_integers(node.output[0]):
                self._read_integers(node, node.input[:1])
                self._make_integers(node, node.output[0])
                self.derive(node.output[0], node.input[0])
            elif found is Kind.CONCAT and self._pays(node, node.output[0]):
                self._read_integers(node, node.input)
                self._make_integers(node, node.output[0])
                self._share_scale(node)

    def _read_integers(self, node: onnx.NodeProto, tensors: Iterable[str]) -> None:
        self.quantized.add(node.name)
        self.tensors.update(tensors)

    def _make_integers(self, node: onnx.NodeProto, tensor: str) -> None:
        """`tensor`, in which `node` ends, gets a pair, and only the pair reads it."""
        for places in (self.outputs, self.tensors, self.replaced):
            places.add(tensor)
        keeps_sign = kind(node, self.view) in (Kind.POOL, Kind.SAME_VALUES, Kind.CONCAT)
        if keeps_sign and self._all_rectified(node):
            self.rectified.add(tensor)

    def _share_scale(self, node: onnx.NodeProto) -> None:
        """With equal scales ONNX Runtime copies bytes where it would look up every value in a table.

        But a rectifier is absorbed only if nothing below zero has an integer: tensors with and without a rectifier
        must not share a range.
        """
        if self._all_rectified(node) or not any(self._is_rectified(name) for name in node.input):
            self.derive(node.output[0], node.input[0])
            self.share_range(node.input)

    def _all_rectified(self, node: onnx.NodeProto) -> bool:
        read = node.input if kind(node, self.view) is Kind.CONCAT else node.input[:1]
        return all(self._is_rectified(name) for name in read)

    def _is_rectified(self, tensor: str) -> bool:
        producer = self.view.producer(tensor)
        return tensor in self.rectified or (producer is not None and kind(producer, self.view) is Kind.RECTIFIER)

    def _pays(self, node: onnx.NodeProto, end: str) -> bool:
        """Whether integers are less work than reals: all inputs are integers, or one is and the result will be."""
        integers = [name in self.outputs for name in node.input]
        return all(integers) or (any(integers) and self.reaches_integers(end))

    def _same_shape(self, node: onnx.NodeProto) -> bool:
        return self.view.shape(node.input[0]) == self.view.shape(node.input[1])


class _Inputs(_Plan):
    """TensorRT: a pair on what enters a convolution or matrix product; the rest follows from what TensorRT fuses."""

    def __init__(self, view: Topology, weighted: set[str]) -> None:
        super().__init__(view, weighted)
        self.depth: dict[str, int] = {}
        for node in view.nodes:
            below = max((self.depth.get(name, 0) for name in node.input), default=0)
            self.depth.update(dict.fromkeys(node.output, below + 1))

    def decide(self) -> None:
        for node in self.view.nodes:
            if node.name in self.weighted:
                self.tensors.add(node.input[0])
                self.outputs.add(self.end(node))
        for node in self.view.nodes:
            found = kind(node, self.view)
            if found is Kind.ADD:
                self._residual(node)
            elif found is Kind.POOL or (found is Kind.SAME_VALUES and node.op_type == "MaxPool"):
                self._pool(node)
            elif found is Kind.CONCAT:
                self._concat(node)

    def _residual(self, node: onnx.NodeProto) -> None:
        """The sum fuses into the convolution that makes one branch; the other branch, which it reads, gets a pair."""
        direct = [name for name in node.input if self._fuses_with_sum(name)]
        if not direct:
            return
        # Of two convolutions the deeper one runs last and takes the sum in; the other is the shortcut.
        fused = max(direct, key=self.depth.__getitem__)
        skipped = next(name for name in node.input if name != fused)
        self.tensors.add(skipped)
        self.quantized.add(node.name)
        self.outputs.add(self.end(node))

    def _fuses_with_sum(self, tensor: str) -> bool:
        producer = self.view.producer(tensor)
        if producer is None or producer.name not in self.weighted or producer.op_type not in ("Conv", "ConvTranspose"):
            return False
        return len(self.view.consumers(tensor)) == 1 and tensor not in self.view.outputs

    def _pool(self, node: onnx.NodeProto) -> None:
        """A pool runs on integers only between quantized neighbours; elsewhere its pair would be work for nothing."""
        if node.input[0] not in self.outputs or not self._read_by_product(node.output[0]):
            return
        self.quantized.add(node.name)
        self.tensors.add(node.input[0])
        self.outputs.add(node.output[0])
        if node.op_type == "MaxPool":
            self.derive(node.output[0], node.input[0])

    def _concat(self, node: onnx.NodeProto) -> None:
        if not all(name in self.outputs for name in node.input) or not self._read_by_product(node.output[0]):
            return
        self.quantized.add(node.name)
        self.tensors.update(node.input)
        self.share_range(node.input)
        self.derive(node.output[0], node.input[0])
        self.outputs.add(node.output[0])

    def _read_by_product(self, tensor: str) -> bool:
        for node in self.view.consumers(tensor):
            if node.name in self.weighted and node.input[0] == tensor:
                return True
            moves = kind(node, self.view) is Kind.SAME_VALUES and node.input[0] == tensor
            if moves and self._read_by_product(node.output[0]):
                return True
        return False
