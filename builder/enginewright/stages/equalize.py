"""Equalize: the channels between layers are evened out, and the network computes what it did."""

from __future__ import annotations

import json

import onnx

from enginewright.errors import DataError
from enginewright.graph.equalization import equalized
from enginewright.graph.layers import layers, layers_to_json
from enginewright.graph.same_outputs import largest_output_difference
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

__all__ = ["TOLERANCE", "run"]

TOLERANCE = 1e-4  # largest difference of an output, as a share of that output's largest magnitude


def run(step: RunningStep) -> Outcome:
    network = onnx.load(step.inputs["network"])
    result = equalized(network)
    difference = largest_output_difference(network, result, Signature.from_json(step.parameters["model"]))
    if not difference <= TOLERANCE:
        raise DataError(
            f"equalizing changed the network's outputs by {difference:.2g} of their size, more than {TOLERANCE:g}",
            hint="leave out quantize.equalize: the network is too sensitive to how its numbers are rounded",
        )
    onnx.save(result, step.output("network"))
    step.output("layers").write_text(json.dumps(layers_to_json(layers(result))))
    return Outcome({"largest_difference": difference})
