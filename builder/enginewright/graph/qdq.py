"""Quantize a network: calibrated ranges and a dialect in, a network with Q/DQ nodes out.

`quantize` checks what it is given and what it made. What stands where is decided in `placement`, the arithmetic is in
`integers`, the nodes are made in `writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import onnx

from enginewright.errors import DataError, listed
from enginewright.graph.dialects import DIALECTS, Dialect
from enginewright.graph.lint import faults
from enginewright.graph.normal_form import normal_form
from enginewright.graph.placement import Placement, place, rectified
from enginewright.graph.ranges import Scales
from enginewright.graph.rules import Kind, kind, weights_of
from enginewright.graph.topology import Topology
from enginewright.graph.writer import write

__all__ = ["quantize", "tensors_to_calibrate"]

_UNWANTED_TYPES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def tensors_to_calibrate(model: onnx.ModelProto) -> tuple[str, ...]:
    """The activations whose ranges some dialect needs, in graph order, whichever layers are kept in float later.

    Raises DataError as `quantize` does for a network that cannot be quantized.
    """
    network = normal_form(model)
    _check_network(network)
    view = Topology(network)
    wanted = set(chain.from_iterable(place(network, dialect).range_of for dialect in DIALECTS.values()))
    for node in view.nodes:
        if kind(node, view) is Kind.WEIGHTED and weights_of(node, view) is not None:
            wanted.update((node.input[0], rectified(node, view)))
    order = (*view.inputs, *chain.from_iterable(node.output for node in view.nodes))
    return tuple(tensor for tensor in order if tensor in wanted)


def quantize(
    model: onnx.ModelProto, scales: Scales, dialect: Dialect, *, keep_float: Sequence[str] = ()
) -> onnx.ModelProto:
    """A copy of a float network with Q/DQ nodes in `dialect`; layers that `keep_float` names (see `place`) stay float.

    Inputs and outputs keep their names, shapes and float32; every other tensor that the network had and still has
    keeps its name.
    Raises DataError if the network holds Q/DQ nodes or batch normalisation behind a convolution, is not float32, if a
    weight is not finite, if a range is missing, or if nothing can be quantized (the operators are named).
    """
    network = normal_form(model)
    _check_network(network)
    placement = place(network, dialect, keep_float=keep_float)
    if not _any_product(network, placement):
        raise _nothing_to_quantize(network, placement, dialect)
    result = write(network, placement, scales, dialect)
    _check_result(model, result, dialect)
    return result


def _check_network(network: onnx.ModelProto) -> None:
    view = Topology(network)
    for node in view.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type.startswith("QLinear"):
            raise DataError(
                f"the network is quantized already: node '{node.name}' is {node.op_type}",
                hint="start from the float network",
            )
        if node.op_type == "BatchNormalization" and (before := _mergeable(node, view)):
            raise DataError(
                f"batch normalisation '{node.name}' stands behind convolution '{before}': it must be merged into its weights first",
                hint="simplify the network (onnxsim), exported in evaluation mode",
            )
    for tensor in network.graph.initializer:
        if tensor.data_type in _UNWANTED_TYPES:
            found = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            raise DataError(
                f"weight '{tensor.name}' is {found}: only float32 networks are quantized",
                hint="export the network in float32",
            )
        value = view.constant(tensor.name) if tensor.data_type == onnx.TensorProto.FLOAT else None
        if value is not None and not np.isfinite(value).all():
            bad = int(np.count_nonzero(~np.isfinite(value)))
            raise DataError(
                f"weight '{tensor.name}' holds {bad} values that are not finite (NaN or infinity)",
                hint="train or import it again",
            )


def _mergeable(norm: onnx.NodeProto, view: Topology) -> str:
    """The convolution into which a batch normalisation should have been merged; empty if something else reads it
    too.
    """
    maker = view.producer(norm.input[0])
    alone = len(view.consumers(norm.input[0])) == 1 and norm.input[0] not in view.outputs
    return maker.name if maker is not None and maker.op_type in ("Conv", "ConvTranspose") and alone else ""


def _any_product(network: onnx.ModelProto, placement: Placement) -> bool:
    view = Topology(network)
    return any(kind(node, view) is Kind.WEIGHTED for node in view.nodes if node.name in placement.quantized)


def _nothing_to_quantize(network: onnx.ModelProto, placement: Placement, dialect: Dialect) -> DataError:
    if placement.kept_float:
        why = "; ".join(
            f"'{name}' stays float because {reason}" for name, reason in list(placement.kept_float.items())[:5]
        )
        more = len(placement.kept_float) - 5
        return DataError(
            f"nothing in the network can be quantized for {dialect.name}: {why}{f'; and {more} more' if more > 0 else ''}",
            hint="leave the step 'quantize' out of the recipe, or choose another target",
        )
    operators = listed(sorted({node.op_type for node in network.graph.node}))
    return DataError(
        f"nothing in the network can be quantized for {dialect.name}: its operators are {operators}",
        hint=f"int8 needs {listed(sorted(dialect.weighted), last='or')} with constant weights; leave the step 'quantize' out",
    )


def _check_result(model: onnx.ModelProto, result: onnx.ModelProto, dialect: Dialect) -> None:
    """What `quantize` promises of its result. A breach is a bug of ours, hence no DataError."""
    onnx.checker.check_model(result, full_check=True)
    broken = faults(result, dialect)
    if broken:
        raise RuntimeError(f"quantize broke its promise: {'; '.join(broken)}")
    for before, after in ((model.graph.input, result.graph.input), (model.graph.output, result.graph.output)):
        constants = {tensor.name for tensor in model.graph.initializer}
        kept = {value.name: value for value in after}
        for value in before:
            if value.name not in constants and kept.get(value.name) != value:
                raise RuntimeError(f"quantize broke its promise: input or output '{value.name}' changed")
