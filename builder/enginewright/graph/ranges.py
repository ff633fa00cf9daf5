"""Calibration: run a network over samples, watch its activations, and choose the range that int8 should cover for each.

Everything streams: a batch is run, its activations are counted and dropped, and what stays is one histogram a tensor,
whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from enginewright.errors import DataError
from enginewright.graph.histogram import Histogram
from enginewright.graph.methods import METHODS, Range, choose_range
from enginewright.graph.normal_form import normal_form
from enginewright.graph.topology import Topology

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["METHODS", "Histogram", "Range", "Scales", "calibrate"]

FORMAT = 1  # of the JSON form of Scales. 1: the first.
Array = npt.NDArray[np.generic]
_LIMIT_BYTES = (
    128 << 20
)  # activations that are held at once; more are watched in several runs, or fewer samples at a time


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
        """Read the JSON form; keys that it does not know are ignored. Raises DataError for a newer format or what is
        not one.
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


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[Mapping[str, Array]],
    *,
    method: str,
    threads: int = 1,
    on_batch: Callable[[int], None] | None = None,
) -> Scales:
    """Run a float network over batches of inputs and choose the range of each of `tensors` by a method of METHODS.

    `batches`: input name -> array, the first dimension being samples. `on_batch` is told the number of samples after
    each batch. Memory depends on the network and the size of a batch, not on the number of batches. Raises DataError
    for no samples, an unknown tensor, an unknown method, or values that are not finite (the tensor is named).
    """
    if method not in METHODS:
        raise DataError(f"unknown calibration method '{method}'", hint=f"choose one of {', '.join(METHODS)}")
    watch = _Watch(normal_form(model), tensors, threads)
    samples = 0
    for batch in batches:
        size = _check(batch)
        for part in watch.parts(batch, size):
            watch.run(part)
        samples += size
        if on_batch is not None:
            on_batch(samples)
    if not samples:
        raise DataError("calibration: there is not a single sample", hint="give calibration data")
    return Scales(
        method, samples, {tensor: choose_range(histogram, method) for tensor, histogram in watch.histograms.items()}
    )


class _Watch:
    """Sessions that give the watched tensors as outputs, grouped so that one run holds no more than _LIMIT_BYTES of
    them.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str], threads: int) -> None:
        view = Topology(model)
        self.histograms = {tensor: Histogram(tensor) for tensor in dict.fromkeys(tensors)}
        self._inputs = tuple(tensor for tensor in self.histograms if tensor in view.inputs)
        made = [tensor for tensor in self.histograms if view.producer(tensor) is not None]
        for tensor in self.histograms:
            if tensor not in made and tensor not in self._inputs:
                raise DataError(f"the network has no tensor '{tensor}' to calibrate")
        sizes = {tensor: 4 * int(np.prod(view.shape(tensor), dtype=np.int64)) for tensor in made}
        groups = _groups(sizes)
        self._largest_group = max((sum(sizes[tensor] for tensor in group) for group in groups), default=1)
        self._free_batch = all(_has_free_batch(value) for value in model.graph.input if value.name in view.inputs)
        self._sessions = [(group, open_session(with_outputs(model, group), threads=threads)) for group in groups]

    def parts(self, batch: Mapping[str, Array], size: int) -> Iterable[Mapping[str, Array]]:
        """The batch, cut where it would make more activations than may be held at once."""
        step = max(1, _LIMIT_BYTES // max(1, self._largest_group)) if self._free_batch else size
        for start in range(0, size, step):
            yield {name: values[start : start + step] for name, values in batch.items()} if size > step else batch

    def run(self, inputs: Mapping[str, Array]) -> None:
        for tensor in self._inputs:
            self.histograms[tensor].update(inputs[tensor])
        for group, session in self._sessions:
            results = session.run(list(group), dict(inputs))
            for tensor in reversed(group):
                self.histograms[tensor].update(results.pop())


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of `model` whose outputs are `tensors`, as float32 of any shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None) for tensor in tensors)
    return copy


def open_session(model: onnx.ModelProto, *, threads: int) -> onnxruntime.InferenceSession:
    """A session that computes what the graph says, in float32: pairs of Q/DQ round, and no integer kernel takes their
    place.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # the arena grows in powers of two and keeps what it has
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # counting goes on between the runs
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _groups(sizes: Mapping[str, int]) -> list[tuple[str, ...]]:
    groups: list[list[str]] = []
    held = 0
    for tensor, size in sizes.items():
        if not groups or held + size > _LIMIT_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(tensor)
        held += size
    return [tuple(group) for group in groups]


def _has_free_batch(value: onnx.ValueInfoProto) -> bool:
    sizes = value.type.tensor_type.shape.dim
    return bool(sizes) and not sizes[0].HasField("dim_value")


def _check(batch: Mapping[str, Array]) -> int:
    sizes = {len(values) for values in batch.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise DataError(
            f"calibration: a batch must have the same number of samples, at least one, in every input, got {sorted(sizes)}"
        )
    return sizes.pop()


def _range(tensor: object, pair: object) -> Range:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(end, int | float) for end in pair):
        raise DataError(f"these are not scales: the range of tensor '{tensor}' is not a pair of numbers")
    return Range(float(pair[0]), float(pair[1]))
