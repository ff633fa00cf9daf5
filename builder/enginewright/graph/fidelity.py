"""How much of the float network's signal survives in the quantized one, layer by layer and at the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from enginewright.errors import DataError
from enginewright.graph.execution import Array, InnerTensors
from enginewright.graph.layers import layers
from enginewright.graph.normal_form import normal_form
from enginewright.graph.topology import Topology

__all__ = ["CEILING_DB", "decibels", "signal_to_noise"]

CEILING_DB = 150.0  # what float32 can carry; two networks that agree to the last bit get it instead of infinity


def signal_to_noise(
    float_model: onnx.ModelProto,
    quantized_model: onnx.ModelProto,
    batches: Iterable[Mapping[str, Array]],
    *,
    threads: int = 1,
) -> Mapping[str, float]:
    """Signal to noise in dB, 10 log10(sum of float squared / sum of difference squared), of each int8 layer by the
    layer's name, and of each float output of the network by the output's name.

    Every tensor is compared where both networks have it in float, before its own quantizer: the noise is that of
    everything up to it. Both run in float32 arithmetic, so what the figure tells is the loss by rounding and cutting,
    the same on every computer. Only sums stay from batch to batch.
    Raises DataError if there is no batch.
    """
    before, after = normal_form(float_model), normal_form(quantized_model)
    compared = _compared(before, after)
    tensors = tuple(dict.fromkeys(compared.values()))
    inner = InnerTensors([before, after], tensors, threads=threads)
    signal, noise = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    empty = True
    for batch in batches:
        empty = False
        for tensor, (expected, actual) in inner.run(batch):
            reference = np.asarray(expected, np.float64).ravel()
            difference = reference - np.asarray(actual, np.float64).ravel()
            signal[tensor] += float(reference @ reference)
            noise[tensor] += float(difference @ difference)
    if empty:
        raise DataError("fidelity: there is not a single sample to compare on", hint="give calibration data")
    return {name: decibels(signal[tensor], noise[tensor]) for name, tensor in compared.items()}


def _compared(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, str]:
    """What is compared: layer or output -> the tensor, which both networks must have."""
    old, new = Topology(before), Topology(after)
    made = {node.name: node.output[0] for node in old.nodes}
    integer = [layer.name for layer in layers(after) if layer.precision == "int8"]
    # By the float network's name: that of an output with a pair stands behind the pair.
    compared = {name: made[name] for name in integer if name in made and new.producer(made[name]) is not None}
    floats = [value.name for value in before.graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    compared.update({name: name for name in floats if name in new.outputs})
    return compared


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), of sums of squares; no more than CEILING_DB and no less than its negative."""
    if noise == 0.0:
        return CEILING_DB
    if signal == 0.0:
        return -CEILING_DB
    return float(np.clip(10.0 * math.log10(signal / noise), -CEILING_DB, CEILING_DB))
