"""Calibration: run a network over samples, watch its activations, and choose the range that int8 should cover for each.

Everything streams: a batch is run, its activations are counted and dropped, and what stays is one histogram a tensor,
whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from enginewright.errors import DataError
from enginewright.graph.execution import Array, InnerTensors
from enginewright.graph.histogram import Histogram
from enginewright.graph.methods import METHODS, Range, choose_range
from enginewright.graph.normal_form import normal_form
from enginewright.graph.topology import Topology, only_default_domain

__all__ = ["METHODS", "Histogram", "Range", "Scales", "Seen", "calibrate", "observe"]

FORMAT = 1  # of the JSON form of Scales. 1: the first.


@dataclass(frozen=True)
class Scales:
    """The calibrated range of every tensor, with the method and the number of samples that they come from."""

    method: str
    samples: int
    ranges: Mapping[str, Range]

    def range(self, tensor: str) -> Range:
        """The range of a tensor. Raises DataError if it was not calibrated."""
        if tensor not in self.ranges:
            raise DataError(
                f"the scales hold no range for tensor '{tensor}'",
                hint="calibrate this very network: the scales seem to come from another one, or from before it was changed",
            )
        return self.ranges[tensor]

    def to_json(self) -> dict[str, object]:
        """The JSON form: {"format", "method", "samples", "ranges": {tensor: [low, high]}}."""
        ranges = {tensor: [range_.low, range_.high] for tensor, range_ in self.ranges.items()}
        return {"format": FORMAT, "method": self.method, "samples": self.samples, "ranges": ranges}

    @classmethod
    def from_json(cls, json: object) -> Scales:
        """Read the JSON form. Keys that it does not know are ignored.

        Raises DataError for a newer format, and for what is no such form.
        """
        if not isinstance(json, dict) or not isinstance(json.get("format"), int):
            raise DataError("these are not scales: the key 'format' is missing")
        if json["format"] > FORMAT:
            raise DataError(
                f"these scales have format {json['format']}, newer than {FORMAT}", hint="use a newer enginewright"
            )
        ranges, method, samples = json.get("ranges"), json.get("method"), json.get("samples")
        if not isinstance(ranges, dict) or not isinstance(method, str) or not isinstance(samples, int):
            raise DataError("these are not scales: 'method', 'samples' or 'ranges' is missing or of another type")
        return cls(method, samples, {str(tensor): _range(tensor, pair) for tensor, pair in ranges.items()})


@dataclass(frozen=True)
class Seen:
    """What calibration samples made of each tensor: enough for the ranges by every method."""

    samples: int
    histograms: Mapping[str, Histogram]

    def scales(self, method: str) -> Scales:
        """The range of each tensor by a method of METHODS. Raises DataError for an unknown one."""
        ranges = {tensor: choose_range(histogram, method) for tensor, histogram in self.histograms.items()}
        return Scales(method, self.samples, ranges)


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[Mapping[str, Array]],
    *,
    threads: int = 1,
    on_batch: Callable[[int], None] | None = None,
) -> Seen:
    """Run a float network over batches of inputs and count the values of each of `tensors`.

    `batches`: input name -> array, the first dimension being samples. `on_batch` is told the number of samples after
    each batch. Memory depends on the network and the size of a batch, not on the number of batches. Raises DataError
    for no samples, an unknown tensor, or values that are not finite (the tensor is named).
    """
    network = normal_form(model)
    parts = _concatenated(network, frozenset(tensors))
    histograms = {tensor: Histogram(tensor) for tensor in tensors if tensor not in parts}
    inner = InnerTensors([network], list(histograms), threads=threads)
    del network  # its weights are in the session now
    samples = 0
    for batch in batches:
        for tensor, (values,) in inner.run(batch):
            histograms[tensor].update(values)
        samples += len(next(iter(batch.values())))
        if on_batch is not None:
            on_batch(samples)
    if not samples:
        raise DataError("calibration: there is not a single sample", hint="give calibration data")
    for tensor, names in parts.items():
        histograms[tensor] = Histogram.joined(tensor, [histograms[name] for name in names])
    return Seen(samples, {tensor: histograms[tensor] for tensor in tensors})


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[Mapping[str, Array]],
    *,
    method: str,
    threads: int = 1,
    on_batch: Callable[[int], None] | None = None,
) -> Scales:
    """Observe, and choose the range of each of `tensors` by a method of METHODS. Raises DataError as `observe` does,
    and for an unknown method.
    """
    if method not in METHODS:
        raise DataError(f"unknown calibration method '{method}'", hint=f"choose one of {', '.join(METHODS)}")
    return observe(model, tensors, batches, threads=threads, on_batch=on_batch).scales(method)


def _concatenated(network: onnx.ModelProto, wanted: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """The wanted tensors that hold the values of other wanted ones and nothing else, in graph order. They need not be
    looked at: in a U-Net that is a quarter of all values.
    """
    return {
        node.output[0]: tuple(node.input)
        for node in Topology(network).nodes
        if node.op_type == "Concat" and only_default_domain(node) and wanted.issuperset([*node.input, node.output[0]])
    }


def _range(tensor: object, pair: object) -> Range:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(end, int | float) for end in pair):
        raise DataError(f"these are not scales: the range of tensor '{tensor}' is not a pair of numbers")
    return Range(float(pair[0]), float(pair[1]))
