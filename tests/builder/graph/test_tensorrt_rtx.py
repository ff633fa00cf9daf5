"""The TensorRT dialect before NVIDIA's own parser and builder: TensorRT-RTX makes engines without a GPU.

What the builder says of the finished engine (its "Layers:" message) tells which layers it runs on integers.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.builder.graph.small_networks import inputs

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.layers import layers
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import Scales, calibrate

trt = pytest.importorskip(
    "tensorrt_rtx_bindings",
    reason="needs the wheels tensorrt-rtx-cu13-libs and tensorrt-rtx-cu13-bindings",
    exc_type=ImportError,
)

_TENSORRT = DIALECTS["tensorrt"]


class _Log(trt.ILogger):  # type: ignore[misc]  # the bindings carry no types
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: object, message: str) -> None:
        del severity
        self.lines.append(message)


class _Rejected(Exception):
    pass


def _build(model: onnx.ModelProto, *, capability: str = "SM86") -> dict[str, list[str]]:
    """Parse and build; which ONNX nodes each engine layer came from, for the layers that read int8."""
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        raise _Rejected("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1  # there is no GPU whose capability could be asked for
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    value = network.get_input(0)
    profile.set_shape(value.name, *((batch, *tuple(value.shape)[1:]) for batch in (1, 1, 4)))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, log.lines[-5:]
    assert engine.nbytes > 1000
    report = next(line for line in log.lines if line.startswith("Layers:"))
    found: dict[str, list[str]] = {}
    for line in report.splitlines()[1:]:
        read = line.partition("Inputs: ")[2].partition("Outputs: ")[0]
        if re.search(r"LayerType: (correlation|gemm|deconv)", line) and "Datatype: Int8" in read:
            found[line.split(",")[0]] = re.findall(r"ONNX Layer: ([^\]]*)\]", line)
    return found


def _scales(model: onnx.ModelProto) -> Scales:
    return calibrate(model, tensors_to_calibrate(model), [inputs(model)], method="percentile")


@pytest.mark.parametrize("capability", ["SM86", "SM89"])
@pytest.mark.parametrize("name", ["residual", "decoder", "tokens"])
def test_the_graph_is_parsed_and_built_and_its_products_run_on_int8(name: str, capability: str, request) -> None:
    model = request.getfixturevalue(name)
    quantized = quantize(model, _scales(model), _TENSORRT)
    integer = {layer.name for layer in layers(quantized) if layer.precision == "int8"}
    in_engine = {node for nodes in _build(quantized, capability=capability).values() for node in nodes} & integer
    # TensorRT-RTX 1.7 has no integer kernel for transposed convolutions and says so by making this one float again.
    assert in_engine == integer - {layer.name for layer in layers(quantized) if layer.op == "ConvTranspose"}
    assert len(in_engine) >= 3


def test_the_dialect_of_onnx_runtime_is_rejected_so_the_check_can_fail(residual: onnx.ModelProto) -> None:
    with pytest.raises(_Rejected, match=r"[Zz]ero|bias"):
        _build(quantize(residual, _scales(residual), DIALECTS["onnxruntime-x86-vnni"]))


def test_a_zero_point_is_rejected_as_our_own_check_says(residual: onnx.ModelProto) -> None:
    quantized = quantize(residual, _scales(residual), _TENSORRT)
    tensor = next(tensor for tensor in quantized.graph.initializer if tensor.name == "relu_1/zero_point")
    tensor.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), tensor.name))
    with pytest.raises(_Rejected, match=r"[Zz]ero"):
        _build(quantized)
