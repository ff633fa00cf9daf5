"""Half: the network with float16 inside, for a TensorRT that goes by the network's own types."""

from __future__ import annotations

import onnx

from enginewright.graph.half import in_float16
from enginewright.running import Outcome, RunningStep

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    network = onnx.load(step.inputs["network"])
    half = in_float16(network)
    onnx.save(half, step.output("network"))
    return Outcome({"bytes": half.ByteSize(), "bytes before": network.ByteSize()})
