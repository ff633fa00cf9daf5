"""Import of a network that comes as ONNX: checked, and its inputs and outputs compared with what the recipe says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from enginewright.errors import DataError
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    path = step.inputs["onnx"]
    try:
        network = onnx.load(path, load_external_data=False)
        _refuse_external(network, path)
        onnx.checker.check_model(network, full_check=True)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, OSError) as error:
        raise DataError(
            f"{path} is not a valid ONNX network: {str(error).splitlines()[0]}", hint="export it again"
        ) from error
    _check_signature(network, Signature.from_json(step.parameters["model"]))
    for tensor in network.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError(
                f"{path}: the weight '{tensor.name}' holds NaN or infinity", hint="export an earlier checkpoint"
            )
    onnx.save(network, step.output("exported"))
    return Outcome({"operators": len(network.graph.node), "opset": network.opset_import[0].version})


def _refuse_external(network: onnx.ModelProto, path: Path) -> None:
    """Weights beside the file would be no part of its digest: a change of theirs would rebuild nothing."""
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in network.graph.initializer):
        raise DataError(
            f"{path} keeps weights in files beside it",
            hint="save it as one file: torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(path), path)",
        )


def _check_signature(network: onnx.ModelProto, signature: Signature) -> None:
    """The recipe names the network's inputs and outputs; both must agree, so that data and sessions fit."""
    weights = {tensor.name for tensor in network.graph.initializer}
    inputs = {value.name: value for value in network.graph.input if value.name not in weights}
    if set(inputs) != set(signature.inputs):
        raise DataError(
            f"the network's inputs are {sorted(inputs)}, the recipe's are {sorted(signature.inputs)}",
            hint="correct model.inputs",
        )
    outputs = tuple(value.name for value in network.graph.output)
    if outputs != signature.outputs:
        raise DataError(
            f"the network's outputs are {list(outputs)}, the recipe's are {list(signature.outputs)}",
            hint="correct model.outputs",
        )
    for name, spec in signature.inputs.items():
        if not inputs[name].type.HasField("tensor_type"):
            found = inputs[name].type.WhichOneof("value") or "nothing"
            raise DataError(
                f"the network's input '{name}' is no tensor: {found.removesuffix('_type')}",
                hint="export a network that takes tensors",
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type).name
        if dtype != spec.dtype:
            raise DataError(
                f"the network's input '{name}' is {dtype}, the recipe says {spec.dtype}", hint="correct model.inputs"
            )
        dims = [dim.dim_value or dim.dim_param or "?" for dim in inputs[name].type.tensor_type.shape.dim]
        differ = [mine != theirs for mine, theirs in zip(spec.shape, dims, strict=False) if isinstance(theirs, int)]
        if len(dims) != len(spec.shape) or any(differ):
            raise DataError(
                f"the network's input '{name}' has the shape {dims}, the recipe says {list(spec.shape)}",
                hint="correct model.inputs",
            )
