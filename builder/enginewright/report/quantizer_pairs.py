"""The Q/DQ pairs of a network, and the nodes that they stand between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginewright.report.engine_data import Quantization, QuantizerPair
from enginewright_runtime.errors import BundleError

if TYPE_CHECKING:
    import onnx

    from enginewright.graph.topology import Topology

__all__ = ["quantization_of"]

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ACTIVATIONS = frozenset({"Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"})


def quantization_of(model: bytes) -> Quantization:
    """Every node that quantizes or dequantizes, and every pair whose input is no constant, in graph order.

    Raises BundleError where the bytes are not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from enginewright.graph.topology import Topology

    try:
        view = Topology(onnx.ModelProto.FromString(model))
    except DecodeError as error:
        raise BundleError(f"model.onnx is not an ONNX model, or cut short: {error}") from None
    names = frozenset(node.name for node in view.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear"))
    pairs = tuple(
        _pair(quantize, dequantize, view)
        for quantize in view.nodes
        if quantize.op_type == "QuantizeLinear" and quantize.input[0] not in view.initializers
        for dequantize in view.consumers(quantize.output[0])
        if dequantize.op_type == "DequantizeLinear"
    )
    return Quantization(names, pairs)


def _pair(quantize: onnx.NodeProto, dequantize: onnx.NodeProto, view: Topology) -> QuantizerPair:
    maker = view.producer(quantize.input[0])
    readers = view.consumers(dequantize.output[0])
    return QuantizerPair(
        quantize=quantize.name,
        dequantize=dequantize.name,
        before="" if maker is None else maker.name,
        after=tuple(reader.name for reader in readers),
        splits=maker is not None
        and maker.op_type in _PRODUCTS
        and any(reader.op_type in _ACTIVATIONS for reader in readers),
    )
