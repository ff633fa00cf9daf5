"""Export: a checkpoint becomes an ONNX network, and the two are compared numerically."""

from __future__ import annotations

from enginewright.checkpoint import load_checkpoint, make_network
from enginewright.graph.torch_export import OPSET, check_parity, export_network
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    model = step.parameters["model"]
    signature = Signature.from_json(model)
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    network = make_network(model, step.code_folder, state, architecture)
    path = step.output("exported")
    export_network(network, signature, path)
    return Outcome({"opset": OPSET, "largest_difference": check_parity(network, signature, path)})
