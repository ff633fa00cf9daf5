"""Assign precision: which layers compute in int8 and which stay in float, by what is measured of each.

The target's own backend compiles the network with each layer alone in float and with each layer alone in int8. These
engines are timed side by side on a real sample, and evaluated on validation data. The assignment that is fastest within
the bound on accuracy wins, and one that is not faster than float loses to float.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from enginewright.datasets import Split, load_data, load_split
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.fidelity import decibels
from enginewright.graph.layers import layers as layers_of
from enginewright.graph.layers import layers_to_json
from enginewright.graph.precision import (
    FORMAT,
    Sensitivity,
    fewest_kept_float,
    layers_with_a_choice,
    most_noise_for_the_time,
    pattern_of,
)
from enginewright.graph.qdq import quantize
from enginewright.graph.ranges import Scales
from enginewright.hosts import refuse_another_host
from enginewright.metrics import make_metric
from enginewright.roofline import Rates, floors
from enginewright.running import Outcome, RunningStep
from enginewright.stopwatch import Saving, saving, time_side_by_side
from enginewright_runtime.backends import backend

__all__ = ["run"]

_BATCH = 32
_SENSITIVITY_SAMPLES = 256
_LAYERS_AT_ONCE = 5  # two engines each are open beside the two that they are compared with
_ROUNDS = 40

Kept = frozenset[str]  # the layers that stay float: what tells one variant of the network from another


@dataclass(frozen=True)
class _Measured:
    """What is known of one layer: the time that int8 saves there, with the others in int8 and with them in float."""

    among_int8: Saving
    among_float: Saving
    sensitivity: Sensitivity


def run(step: RunningStep) -> Outcome:
    if not _modelled(step):
        refuse_another_host(step.parameters["host"], step.parameters["backend"])
    variants = _Variants(step)
    layers = _measure_layers(variants)
    kept, reason = _choose(variants, layers)
    latencies = variants.time({kept, variants.nothing, variants.all})
    if kept == variants.all or saving(latencies[kept], latencies[variants.all]).low_ns <= 0:
        tried = variants.nothing if kept == variants.all else kept
        against = f"{_ms(latencies[tried])} against {_ms(latencies[variants.all])}"
        reason = reason or f"int8 is not faster than float here: {against}"
        kept = variants.all
    table = _table(variants, layers, kept, reason, {name: _median(taken) for name, taken in latencies.items()})
    step.output("precision").write_text(json.dumps(table))
    if kept == variants.all:
        step.warn(f"all layers stay float: {reason}")
    elif kept:
        step.say(f"{len(kept)} of {len(layers)} layers stay float: {reason}")
    times = "roofline_floor_ns" if _modelled(step) else "latency_ns"
    return Outcome({key: table[key] for key in ("chosen", "kept_float", "accuracy")} | {times: table["latency_ns"]})


class _Variants:
    """One network in all its assignments: compiled, timed and evaluated by the layers that stay float."""

    nothing: Kept = frozenset()

    def __init__(self, step: RunningStep) -> None:
        self.step = step
        self.network = onnx.load(step.inputs["network"])
        self.scales = Scales.from_json(json.loads(step.inputs["scales"].read_bytes()))
        self.dialect = DIALECTS[step.parameters["dialect"]]
        self.layers = layers_with_a_choice(self.network, self.dialect)
        self.all: Kept = frozenset(self.layers)
        self.split = _validation(step)
        first = next(self.split.batches(self.split.signature.batch_size(1)))
        self.sample = first.inputs
        self._accuracies: dict[Kept, float] = {}

    def compile(self, kept: Kept) -> tuple[bytes, Mapping[str, Any]]:
        """The engine, and the settings that it is opened with."""
        parameters = self.step.parameters
        if kept == self.all:
            network, settings = self.network, parameters["settings"]
        else:
            patterns = [pattern_of(layer) for layer in sorted(kept)]
            network = quantize(self.network, self.scales, self.dialect, keep_float=patterns)
            settings = parameters["quantized_settings"]
        return backend(parameters["backend"]).compile(network.SerializeToString(), settings), settings

    def time(self, variants: set[Kept]) -> dict[Kept, list[int]]:
        """Nanoseconds of an inference, taken side by side: the same index is the same time. Of a target that is elsewhere,
        the sum of the layers' roofline floors.
        """
        if _modelled(self.step):
            return {kept: [self._floor_ns(kept)] * _ROUNDS for kept in variants}
        labels = {str(number): kept for number, kept in enumerate(sorted(variants, key=sorted))}
        samples = time_side_by_side(
            {label: self.compile(kept) for label, kept in labels.items()},
            self.sample,
            backend_name=self.step.parameters["backend"],
            rounds=_ROUNDS,
        )
        return {labels[label]: taken for label, taken in samples.items()}

    def _floor_ns(self, kept: Kept) -> int:
        rates = Rates(**self.step.parameters["rates"])
        patterns = [pattern_of(layer) for layer in sorted(kept)]
        network = self.network
        if kept != self.all:
            network = quantize(network, self.scales, self.dialect, keep_float=patterns)
        table: Any = layers_to_json(layers_of(network))
        return round(sum(floor.least_ns for floor in floors(table["layers"], rates)))

    def sensitivities(self, variants: Sequence[Kept]) -> list[Sensitivity]:
        """What each variant does to the outputs and the metric beside float, on a part of the validation split."""
        total = min(_SENSITIVITY_SAMPLES, len(self.split))
        order = [index * len(self.split) // total for index in range(self.split.signature.whole_batches(total))]
        metrics, noise, signal = self._run([self.all, *variants], order or range(len(self.split)))
        return [
            Sensitivity(decibels(signal, noise[number]), metrics[0] - metrics[number])
            for number in range(1, len(variants) + 1)
        ]

    def accuracy(self, kept: Kept) -> float:
        """The recipe's metric on the whole validation split."""
        if kept not in self._accuracies:
            order = range(self.split.signature.whole_batches(len(self.split)))
            wanted = [self.all, kept]
            self._accuracies.update(zip(wanted, self._run(wanted, order)[0], strict=True))
        return self._accuracies[kept]

    def _run(self, variants: Sequence[Kept], order: Sequence[int]) -> tuple[list[float], list[float], float]:
        """Each variant's metric, the power of its noise against the first one, and the power of the first's outputs."""
        parameters = self.step.parameters
        metrics = [make_metric(parameters["metric"], self.step.code_folder) for _ in variants]
        noise, signal = [0.0] * len(variants), 0.0
        with ExitStack() as stack:
            opener = backend(parameters["backend"])
            engines = [stack.enter_context(closing(opener.open(*self.compile(kept)))) for kept in variants]
            size = self.split.batch_size(_BATCH)
            batches = self.split.batches(size, order=order)
            for batch in self.step.tracked(batches, total=-(-len(order) // size), note="comparing on validation data"):
                outputs = [engine.run(batch.inputs) for engine in engines]
                for metric, found in zip(metrics, outputs, strict=True):
                    metric.update(found, batch.labels, outputs[0])
                for name, expected in outputs[0].items():
                    reference = expected.astype(np.float64)
                    signal += float((reference**2).sum())
                    for number, found in enumerate(outputs):
                        noise[number] += float(((found[name] - reference) ** 2).sum())
        return [metric.score().value for metric in metrics], noise, signal


def _validation(step: RunningStep) -> Split:
    """The validation split; the calibration split where a recipe without training has none."""
    data = load_data(step)
    return load_split(data, "validation" if hasattr(data, "validation") else "calibration", step)


def _measure_layers(variants: _Variants) -> dict[str, _Measured]:
    measured: dict[str, _Measured] = {}
    for start in range(0, len(variants.layers), _LAYERS_AT_ONCE):
        layers = variants.layers[start : start + _LAYERS_AT_ONCE]
        variants.step.progress(start, len(variants.layers), "timing layers")
        alone_float = {layer: frozenset((layer,)) for layer in layers}
        alone_int8 = {layer: variants.all - {layer} for layer in layers}
        taken = variants.time({variants.nothing, variants.all, *alone_float.values(), *alone_int8.values()})
        sensitivities = variants.sensitivities(list(alone_int8.values()))
        for layer, sensitivity in zip(layers, sensitivities, strict=True):
            measured[layer] = _Measured(
                among_int8=saving(taken[variants.nothing], taken[alone_float[layer]]),
                among_float=saving(taken[alone_int8[layer]], taken[variants.all]),
                sensitivity=sensitivity,
            )
    return measured


def _choose(variants: _Variants, layers: Mapping[str, _Measured]) -> tuple[Kept, str]:
    """The layers that stay float, and why: the fastest assignment first, then what the bound on accuracy demands."""
    slower = frozenset(name for name, layer in layers.items() if layer.among_int8.high_ns < 0)
    not_faster = frozenset(name for name, layer in layers.items() if layer.among_float.low_ns <= 0)
    latencies = variants.time({variants.nothing, slower, not_faster})
    kept = min(latencies, key=lambda variant: (_median(latencies[variant]), len(variant)))
    reason = "int8 is slower there" if kept and kept != variants.all else ""
    bound = variants.step.parameters["accuracy_drop"]
    if bound is None or _lost(variants, kept) <= bound:
        return kept, reason
    enough = _enough_in_float(variants, layers, kept, bound)
    latencies = variants.time(enough)
    fastest = min(latencies, key=lambda variant: (_median(latencies[variant]), len(variant)))
    return fastest, f"int8 everywhere would lose more than {bound:.2%}"


def _enough_in_float(variants: _Variants, layers: Mapping[str, _Measured], kept: Kept, bound: float) -> set[Kept]:
    """Assignments that keep the bound: layers return to float in the order of noise for the time that they save, from
    the input on, and from the output on, where float layers side by side need no conversion between them.
    """
    left = [name for name in layers if name not in kept]
    by_noise = most_noise_for_the_time(
        {name: layers[name].sensitivity for name in left}, {name: layers[name].among_int8 for name in left}
    )
    holds: Callable[[Sequence[str]], bool] = lambda more: _lost(variants, kept.union(more)) <= bound  # noqa: E731
    return {kept.union(fewest_kept_float(order, holds=holds)) for order in (by_noise, left, left[::-1])}


def _lost(variants: _Variants, kept: Kept) -> float:
    return variants.accuracy(variants.all) - variants.accuracy(kept)


def _table(
    variants: _Variants, layers: Mapping[str, _Measured], kept: Kept, reason: str, latency_ns: Mapping[Kept, float]
) -> dict[str, Any]:
    """What was measured and chosen, for the step `quantize` and for the report. `time` says where the times come from."""
    of_interest = {"float": variants.all, "int8": variants.nothing, "chosen": kept}
    return {
        "format": FORMAT,
        "time": "modelled" if _modelled(variants.step) else "measured",
        "chosen": "float" if kept == variants.all else "mixed" if kept else "int8",
        "reason": reason,
        "kept_float": sorted(kept),
        "accuracy_drop": variants.step.parameters["accuracy_drop"],
        "split": variants.split.name,
        "accuracy": {name: variants.accuracy(variant) for name, variant in of_interest.items()},
        "latency_ns": {name: latency_ns[variant] for name, variant in of_interest.items()},
        "layers": [
            {
                "name": name,
                "precision": "float" if name in kept else "int8",
                "saving_ns": layer.among_int8.to_json(),
                "saving_alone_ns": layer.among_float.to_json(),
                "snr_db": round(layer.sensitivity.snr_db, 2),
                "accuracy_drop": layer.sensitivity.accuracy_drop,
            }
            for name, layer in layers.items()
        ],
    }


def _modelled(step: RunningStep) -> bool:
    """Whether the target is elsewhere, and its rates stand for a clock."""
    return "rates" in step.parameters


def _median(samples: Sequence[int]) -> float:
    return float(np.median(samples))


def _ms(samples: Sequence[int]) -> str:
    return f"{_median(samples) / 1e6:.3f} ms"
