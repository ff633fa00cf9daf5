"""What each layer of a network costs: multiply-accumulates, weights, bytes, and the precision in which it computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod

import onnx

from enginewright.graph.normal_form import normal_form
from enginewright.graph.rules import RULES, Kind
from enginewright.graph.topology import Topology, attributes, only_default_domain

__all__ = ["FORMAT", "Layer", "layers", "layers_to_json", "total_macs"]

FORMAT = 1  # of the JSON form. 1: the first.


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product, at batch one.

    `weights` counts numbers, bias included; `weight_bytes` is their size in an engine. `precision`: `int8` where its
    inputs come from DequantizeLinear, else `float32`. `snr_db`: its output's signal to noise, where it was measured.
    """

    name: str
    op: str
    macs: int
    weights: int
    weight_bytes: int
    output_shape: tuple[int, ...]
    precision: str
    snr_db: float | None = None


def layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """The layers of a network, float or with Q/DQ nodes, in graph order.

    Raises DataError where shapes cannot be inferred.
    """
    network = normal_form(model)
    view = Topology(network)
    return tuple(_layer(node, view) for node in view.nodes if _is_layer(node))


def total_macs(table: Iterable[Layer]) -> int:
    """The multiply-accumulates of one inference at batch one."""
    return sum(layer.macs for layer in table)


def layers_to_json(table: Iterable[Layer]) -> dict[str, object]:
    """The JSON form: {"format", "layers": [{...}]}, each layer with the fields of `Layer`."""
    return {
        "format": FORMAT,
        "layers": [{**asdict(layer), "output_shape": list(layer.output_shape)} for layer in table],
    }


def _is_layer(node: onnx.NodeProto) -> bool:
    return only_default_domain(node) and RULES.get(node.op_type) is Kind.WEIGHTED


def _layer(node: onnx.NodeProto, view: Topology) -> Layer:
    constants = [found for name in node.input[1:] if (found := _stored(name, view)) is not None]
    macs = _macs(node, view)
    from_integers = all(_dequantized(name, view) for name in node.input[:2])
    return Layer(
        name=node.name,
        op=node.op_type,
        macs=macs,
        weights=sum(prod(tensor.dims) for tensor, _ in constants),
        weight_bytes=sum(prod(tensor.dims) * size for tensor, size in constants),
        output_shape=view.shape(node.output[0]),
        precision="int8" if from_integers else "float32",
    )


def _macs(node: onnx.NodeProto, view: Topology) -> int:
    inputs, output = view.shape(node.input[0]), view.shape(node.output[0])
    if node.op_type in ("Gemm", "MatMul"):
        transposed = node.op_type == "Gemm" and attributes(node).get("transA", 0)
        return prod(output) * inputs[0 if transposed else -1]
    # A weight is [outputs, inputs / groups, kernel ...] for Conv and [inputs, outputs / groups, kernel ...] for
    # ConvTranspose: every output position of the one, and every input position of the other, uses each weight once.
    positions = output[2:] if node.op_type == "Conv" else inputs[2:]
    return prod(view.shape(node.input[1])) * prod(positions) * output[0]


def _dequantized(tensor: str, view: Topology) -> bool:
    producer = view.producer(tensor)
    return producer is not None and producer.op_type == "DequantizeLinear"


def _stored(tensor: str, view: Topology) -> tuple[onnx.TensorProto, int] | None:
    """The initializer behind a weight, through its quantizers, and the bytes that one number takes in the engine."""
    size = 4
    producer = view.producer(tensor)
    while producer is not None and producer.op_type in ("DequantizeLinear", "QuantizeLinear"):
        tensor = producer.input[0]
        size = 1
        producer = view.producer(tensor)
    found = view.initializers.get(tensor)
    if found is None:
        return None
    return found, (4 if found.data_type == onnx.TensorProto.INT32 else size)
