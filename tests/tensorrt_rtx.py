"""NVIDIA's own parser and builder, for tests: TensorRT-RTX makes engines without a GPU.

Importing this skips the tests of a module where its wheels are not installed. What the builder says of the finished
engine (its "Layers:" message) tells which layers it runs on integers: nothing else can without a GPU, for there an
engine is not deserialized, and only a deserialized one can be inspected.
"""

from __future__ import annotations

import re
from typing import Any

import onnx
import pytest

trt = pytest.importorskip(
    "tensorrt_rtx_bindings",
    reason="needs the wheels tensorrt-rtx-cu13-libs and tensorrt-rtx-cu13-bindings",
    exc_type=ImportError,
)

_SMALLEST, _LARGEST = 1, 4  # batches that the engine takes
_FREE_SIZE = 16  # of a free dimension that is not the batch


class _Log(trt.ILogger):  # type: ignore[misc]  # the bindings carry no types
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: object, message: str) -> None:
        del severity
        self.lines.append(message)


class Rejected(Exception):
    """The parser does not take the network."""


def int8_layers(model: onnx.ModelProto, *, capability: str = "SM86") -> set[str]:
    """Parse and build; the names of all ONNX nodes in the engine's layers that multiply int8."""
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        raise Rejected("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1  # there is no GPU whose capability could be asked for
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.add_optimization_profile(_profile(builder, network))
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, log.lines[-5:]
    assert engine.nbytes > 1000
    report = next(line for line in log.lines if line.startswith("Layers:"))
    found: set[str] = set()
    for line in report.splitlines()[1:]:
        read = line.partition("Inputs: ")[2].partition("Outputs: ")[0]
        if re.search(r"LayerType: (correlation|gemm|deconv)", line) and "Datatype: Int8" in read:
            found.update(re.findall(r"ONNX Layer: ([^\]]*)\]", line))
    return found


def _profile(builder: Any, network: Any) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        first, *others = tuple(value.shape)
        rest = [_FREE_SIZE if size < 0 else size for size in others]
        batches = (first,) * 3 if first >= 0 else (_SMALLEST, _SMALLEST, _LARGEST)
        profile.set_shape(value.name, *((batch, *rest) for batch in batches))
    return profile
