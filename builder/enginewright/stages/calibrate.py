"""Calibrate: ranges for the activations, streamed over calibration samples so that memory does not grow with their
number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import onnx

from enginewright.datasets import load_data, load_split
from enginewright.errors import DataError
from enginewright.graph.qdq import tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Array
from enginewright_runtime.host import usable_cores

__all__ = ["run"]

_BATCH = 16


def run(step: RunningStep) -> Outcome:
    wanted, method = step.parameters["samples"], step.parameters["method"]
    split = load_split(load_data(step), "calibration", step)
    if len(split) < wanted:
        raise DataError(
            f"the split 'calibration' has {len(split)} samples, and calibration.samples asks for {wanted}",
            hint=f"give more calibration data, or set calibration.samples to at most {len(split)}",
        )
    size = split.signature.batch_size(_BATCH)
    wanted = split.signature.whole_batches(wanted)
    if wanted == 0:
        raise DataError(
            f"the network's batch size of {size} is more than calibration.samples asks for",
            hint=f"set calibration.samples to a multiple of {size}",
        )
    # Spread evenly over the split: data sets are often sorted by class.
    order = [index * len(split) // wanted for index in range(wanted)]

    def batches() -> Iterator[Mapping[str, Array]]:
        for batch in step.tracked(split.batches(size, order=order), total=-(-wanted // size), note="calibrating"):
            yield batch.inputs

    network = onnx.load(step.inputs["network"])
    tensors = tensors_to_calibrate(network)
    scales = calibrate(network, tensors, batches(), method=method, threads=usable_cores())
    step.output("scales").write_text(json.dumps(scales.to_json()))
    return Outcome({"method": method, "samples": wanted, "tensors": len(tensors)})
