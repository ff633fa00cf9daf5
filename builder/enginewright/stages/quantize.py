"""Quantize: Q/DQ nodes into the network, in the dialect that the target's backend wants, and the signal to noise that
each layer keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import onnx

from enginewright.datasets import Split, load_data, load_split
from enginewright.graph.bias_correction import bias_corrected
from enginewright.graph.dialects import DIALECTS, Dialect
from enginewright.graph.fidelity import signal_to_noise
from enginewright.graph.layers import layers, layers_to_json
from enginewright.graph.lint import faults
from enginewright.graph.placement import place
from enginewright.graph.precision import pattern_of
from enginewright.graph.qdq import quantize
from enginewright.graph.ranges import Scales
from enginewright.graph.rounding import adaptive_rounding, rounded
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Array
from enginewright_runtime.host import usable_cores

__all__ = ["run"]

_COMPARED_SAMPLES = 64
_ROUNDING_SAMPLES = 256
_BIAS_SAMPLES = 64  # the quantized network runs over them once for each layer; more change nothing that counts
_BATCH = 16


def run(step: RunningStep) -> Outcome:
    name, keep_float = step.parameters["dialect"], step.parameters["keep_float"]
    network = onnx.load(step.inputs["network"])
    if "precision" in step.inputs:
        assigned = json.loads(step.inputs["precision"].read_bytes())
        if assigned["chosen"] == "float":
            return _in_float(step, network)
        keep_float = [pattern_of(layer) for layer in assigned["kept_float"]]
    scales = Scales.from_json(json.loads(step.inputs["scales"].read_bytes()))
    dialect = DIALECTS[name]
    split = load_split(load_data(step), "calibration", step)
    quantized = quantize(network, scales, dialect, keep_float=keep_float)
    quantized = _with_better_constants(step, split, network, quantized, dialect)
    onnx.save(quantized, step.output("quantized"))
    for layer, reason in place(network, dialect, keep_float=step.parameters["keep_float"]).kept_float.items():
        step.warn(f"the layer {layer} stays float: {reason}")  # what was assigned, the step before has said
    noise = signal_to_noise(network, quantized, _batches(split, _COMPARED_SAMPLES))
    table = [replace(layer, snr_db=noise.get(layer.name)) for layer in layers(quantized)]
    step.output("layers").write_text(json.dumps(layers_to_json(table)))
    integer = sum(layer.precision == "int8" for layer in table)
    worst = min(noise.values(), default=None)
    return Outcome(
        {"dialect": name, "int8_layers": integer, "float_layers": len(table) - integer, "lowest_snr_db": worst}
    )


def _with_better_constants(
    step: RunningStep, split: Split, network: onnx.ModelProto, quantized: onnx.ModelProto, dialect: Dialect
) -> onnx.ModelProto:
    """The quantized network with the weights and biases that the recipe asks for: no pair changes, so neither does the
    engine's speed.
    """
    if step.parameters["rounding"] == "adaptive":
        step.say("rounding the weights of each layer together")
        samples = partial(_batches, split, _ROUNDING_SAMPLES)
        rounding = adaptive_rounding(network, quantized, samples, limit=dialect.weight_limit, threads=usable_cores())
        quantized = rounded(quantized, rounding)
    if step.parameters["correct_bias"]:
        samples = partial(_batches, split, _BIAS_SAMPLES)
        tell = partial(step.progress, note="correcting biases")
        quantized = bias_corrected(network, quantized, samples, threads=usable_cores(), on_layer=tell)
    if broken := faults(quantized, dialect):
        raise RuntimeError(f"better weights and biases broke what quantize promises: {'; '.join(broken)}")
    return quantized


def _batches(split: Split, samples: int) -> Iterator[Mapping[str, Array]]:
    size = split.batch_size(_BATCH)
    whole = split.signature.whole_batches(min(max(samples, size), len(split)))
    order = [index * len(split) // whole for index in range(whole)]  # spread: data sets are often sorted by class
    for batch in split.batches(size, order=order):
        yield batch.inputs


def _in_float(step: RunningStep, network: onnx.ModelProto) -> Outcome:
    """No layer is worth int8 on this target: the network goes on as it came."""
    onnx.save(network, step.output("quantized"))
    table = layers(network)
    step.output("layers").write_text(json.dumps(layers_to_json(table)))
    return Outcome({"dialect": step.parameters["dialect"], "int8_layers": 0, "float_layers": len(table)})
