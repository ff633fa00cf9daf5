"""Whether NVIDIA's own parser and builder take an ONNX network: TensorRT-RTX does both without a GPU.

    python benchmarks/tensorrt_check.py NETWORK.onnx

Prints "builds", with the number of convolutions and matrix products that the engine computes on integers, or the
parser's or the builder's reason.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def verdict(model: bytes) -> str:
    """Parse and build for compute capability 8.6, with a batch of one where the batch is free."""
    try:
        import tensorrt_rtx_bindings as trt
    except ImportError:
        return "not installed (pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings)"

    class Log(trt.ILogger):  # type: ignore[misc]  # the bindings carry no types
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            self.lines.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        return f"rejects: {_first([parser.get_error(index).desc() for index in range(parser.num_errors)])}"
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1  # there need not be a GPU whose capability could be asked for
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        shape = tuple(1 if size < 0 else size for size in value.shape)
        profile.set_shape(value.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        return f"does not build: {_first(log.errors)}"
    report = next((line for line in log.lines if line.startswith("Layers:")), "")
    products = [line for line in report.splitlines() if re.search(r"LayerType: (correlation|gemm|deconv)", line)]
    integer = sum("Datatype: Int8" in line.partition("Inputs: ")[2].partition("Outputs: ")[0] for line in products)
    return f"builds, {integer} int8 layers"


def _first(messages: list[str]) -> str:
    """The first message on one line, without the places in the library's source that it names."""
    said = " ".join(messages[0].split()) if messages else "no reason given"
    return re.sub(r" (\[\w+\.cpp|In \w+ at ).*", "", said)


if __name__ == "__main__":
    print(verdict(Path(sys.argv[1]).read_bytes()))
