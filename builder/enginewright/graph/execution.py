"""Run networks as they are written, to look at their inner tensors, in memory that does not grow with what they
make.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from enginewright.errors import DataError, listed
from enginewright.graph.topology import Topology, shapes_at_batch_one

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Array", "InnerTensors", "open_session", "samples_at_once"]

Array: TypeAlias = npt.NDArray[np.generic]

_LIMIT_BYTES = 128 << 20  # what a part of a batch may hold at once, if it is more than one sample
_MOST_BYTES = 384 << 20  # what one sample may; tensors that hold more are looked at in several runs


class InnerTensors:
    """The values of `tensors`, float32, in one or more networks that all have them and take the same inputs.

    Raises DataError for a tensor that the first network does not have, or whose shape cannot be inferred.
    """

    def __init__(self, networks: Sequence[onnx.ModelProto], tensors: Sequence[str], *, threads: int) -> None:
        view = Topology(networks[0])
        made = [tensor for tensor in tensors if view.producer(tensor) is not None]
        self._networks = len(networks)
        self._inputs = view.inputs
        self._wanted_inputs = [tensor for tensor in tensors if tensor in view.inputs]
        for tensor in tensors:
            if tensor not in made and tensor not in view.inputs:
                raise DataError(f"the network has no tensor '{tensor}' to look at")
        self._free_batch = all(_has_free_batch(value) for value in networks[0].graph.input if value.name in view.inputs)
        sizes = {tensor: 4 * len(networks) * int(np.prod(view.shape(tensor), dtype=np.int64)) for tensor in made}
        groups = _groups(sizes)
        self._bytes_per_sample = max((sum(sizes[tensor] for tensor in group) for group in groups), default=1)
        self._sessions = [
            (
                group,
                [_open(_with_outputs(network, group), threads=threads, keeps_memory=True) for network in networks],
            )
            for group in groups
        ]

    def run(self, batch: Mapping[str, Array]) -> Iterator[tuple[str, tuple[Array, ...]]]:
        """A tensor's name and its values in each network, for every tensor, perhaps in parts of the batch.

        Raises DataError if the batch lacks an input, or holds inputs of different lengths or of none.
        """
        missing = [name for name in self._inputs if name not in batch]
        if missing:
            raise DataError(
                f"the batch lacks the input {listed(missing)} of the network; it has {listed(sorted(batch))}"
            )
        for part in self._parts({name: batch[name] for name in self._inputs}):
            for tensor in self._wanted_inputs:
                yield tensor, (part[tensor],) * self._networks
            for group, sessions in self._sessions:
                results = [session.run(list(group), part)[::-1] for session in sessions]
                for tensor in group:
                    yield tensor, tuple(result.pop() for result in results)  # what was looked at is held no longer

    def _parts(self, batch: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        lengths = {len(values) for values in batch.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise DataError(f"a batch must hold as many samples for every input, at least one, got {sorted(lengths)}")
        length = lengths.pop()
        step = max(1, _LIMIT_BYTES // max(1, self._bytes_per_sample)) if self._free_batch else length
        for start in range(0, length, step):
            yield {name: values[start : start + step] for name, values in batch.items()}


def open_session(network: onnx.ModelProto, *, threads: int) -> onnxruntime.InferenceSession:
    """A session in float32 arithmetic: pairs of Q/DQ round as written, and no integer kernel takes their place."""
    return _open(network.SerializeToString(), threads=threads, keeps_memory=False)


def samples_at_once(network: onnx.ModelProto, most: int) -> int:
    """How many samples a run of the whole network should take, at most `most`, to hold little memory."""
    shapes = shapes_at_batch_one(network)
    made = (shapes.get(tensor, ()) for node in network.graph.node for tensor in node.output)
    held = 4 * sum(math.prod(shape) for shape in made)
    return max(1, min(most, _LIMIT_BYTES // max(1, held)))


def _open(network: bytes, *, threads: int, keeps_memory: bool) -> onnxruntime.InferenceSession:
    """`keeps_memory`: what a run has freed is kept for the next one. Taken anew each time, large outputs leave holes that
    nothing fits into, and memory grows with the number of runs; many sessions side by side had better give it back.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = keeps_memory
    options.enable_mem_pattern = False  # from the second run on it would hold all tensors of a run at once
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # between the runs we need the cores
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _with_outputs(network: onnx.ModelProto, tensors: Iterable[str]) -> bytes:
    """The network, written with `tensors` as its outputs. A copy to change would hold all weights once more."""
    own = list(network.graph.output)
    del network.graph.output[:]
    try:
        network.graph.output.extend(
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None) for tensor in tensors
        )
        written: bytes = network.SerializeToString()
    finally:
        del network.graph.output[:]
        network.graph.output.extend(own)
    return written


def _has_free_batch(value: onnx.ValueInfoProto) -> bool:
    sizes = value.type.tensor_type.shape.dim
    return bool(sizes) and not sizes[0].HasField("dim_value")


def _groups(sizes: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The tensors in their order, cut into groups of at most _MOST_BYTES at batch one (or of one tensor)."""
    groups: list[list[str]] = []
    held = 0
    for tensor, size in sizes.items():
        if not groups or held + size > _MOST_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(tensor)
        held += size
    return [tuple(group) for group in groups]
