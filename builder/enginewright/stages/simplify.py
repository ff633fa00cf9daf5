"""Simplify: constants folded, batch normalisation merged into convolutions and dead nodes dropped by onnxsim, the rest
brought into normal form.

The result must agree with what was exported within TOLERANCE.
"""

from __future__ import annotations

import json

import onnx

from enginewright.errors import DataError
from enginewright.graph.layers import layers, layers_to_json, total_macs
from enginewright.graph.normal_form import normal_form
from enginewright.graph.same_outputs import largest_output_difference
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

__all__ = ["TOLERANCE", "run"]

TOLERANCE = 1e-4  # largest difference of an output, as a share of that output's largest magnitude


def run(step: RunningStep) -> Outcome:
    import onnxsim

    exported = onnx.load(step.inputs["exported"])
    try:
        simplified, _ = onnxsim.simplify(exported)
    except Exception as error:  # onnxsim raises errors of many kinds, of ONNX Runtime's too
        said = str(error).strip().partition("\n")[0]
        raise DataError(
            f"onnxsim cannot simplify the network: {said or type(error).__name__}",
            hint="write it with operators of the standard ONNX domain",
        ) from error
    simplified = normal_form(simplified)
    onnx.checker.check_model(simplified, full_check=True)
    difference = largest_output_difference(exported, simplified, Signature.from_json(step.parameters["model"]))
    if not difference <= TOLERANCE:
        raise DataError(
            f"simplifying changed the network's outputs by {difference:.2g} of their size, more than {TOLERANCE:g}"
        )
    onnx.save(simplified, step.output("network"))
    table = layers(simplified)
    step.output("layers").write_text(json.dumps(layers_to_json(table)))
    return Outcome(
        {
            "operators_before": len(exported.graph.node),
            "operators": len(simplified.graph.node),
            "macs": total_macs(table),
        }
    )
