"""How the latency of convolutions steps with their number of channels: what a target's `channel_multiple` should be.

Run it on the computer that the target stands for:  python benchmarks/channel_steps.py
A stack of 3x3 convolutions with ReLU, each with as many input as output channels, is compiled for every count from 8 to
128 in steps of 4, in float and in int8 with the Q/DQ dialect of this computer. A count is a good one where no mixture of
other counts gives as many channels for less time: it lies on the lower convex hull of the times. For each multiple,
the table at the end says how much more time than the hull its counts take.
Protocol: ONNX Runtime, batch 1, one thread, warm caches, wall clock; all engines take turns in random order in one
process, the first inference after a turn is dropped; the lower quartile of the rounds, since other work on the computer
only adds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from enginewright.graph.dialects import DIALECTS, onnxruntime_dialect
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import Range, Scales
from enginewright.stopwatch import time_side_by_side
from enginewright_runtime.backends import backend
from enginewright_runtime.canonical import Json
from enginewright_runtime.host import fingerprint, instruction_sets, machine
from enginewright_runtime.stats import percentile

COUNTS = range(8, 129, 4)
MULTIPLES = (4, 8, 16, 32)
LAYERS = 3
SIDE = 16  # height and width in pixels
GOOD = 0.05  # mean time above the hull that a multiple may take

Engine = tuple[bytes, Mapping[str, Json]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    dialect = onnxruntime_dialect(machine(), instruction_sets())
    latencies_us = measure(dialect, rounds=arguments.rounds)
    print(f"{'channels':>8}  {'float':>9}  {'int8':>9}   microseconds; * lies on the hull")
    good = {kind: hull(times) for kind, times in latencies_us.items()}
    for count in COUNTS:
        cells = [f"{times[count]:8.1f}{'*' if count in good[kind] else ' '}" for kind, times in latencies_us.items()]
        print(f"{count:>8}  {'  '.join(cells)}")
    print(f"\n{'multiple':>8}  time above the hull, mean and worst over its counts")
    best = {}
    for kind, times in latencies_us.items():
        above = {multiple: excess(times, good[kind], multiple) for multiple in MULTIPLES}
        for multiple, (mean, worst, at) in above.items():
            print(f"{multiple:>8}  {kind:<5} {mean:6.1%}  {worst:6.1%} at {at}")
        best[kind] = next((multiple for multiple in MULTIPLES if above[multiple][0] <= GOOD), MULTIPLES[-1])
    found = ", ".join(f"{kind} {multiple}" for kind, multiple in best.items())
    print(
        f"\nsmallest multiple within {GOOD:.0%} of the hull on average: {found}; channel_multiple: {max(best.values())}"
    )
    print(
        f"{LAYERS} convolutions 3x3 on {SIDE}x{SIDE} pixels, {dialect}, on {fingerprint()['cpu']}, ONNX Runtime, batch 1, one thread, "
        f"warm caches, interleaved in one process, {arguments.rounds} rounds, lower quartile"
    )
    return 0


def measure(dialect: str, *, rounds: int) -> dict[str, dict[int, float]]:
    """Microseconds by kind (float, int8) and number of channels."""
    engines: dict[str, Engine] = {}
    for count in COUNTS:
        network = stack(count)
        engines[f"float {count}"] = compiled(network, {"threads": 1})
        engines[f"int8 {count}"] = compiled(
            quantized(network, dialect),
            {
                "threads": 1,
                "disable": list(DIALECTS[dialect].disabled_optimizers),
                "config": dict(DIALECTS[dialect].session_config),
            },
        )
    image = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    samples = time_side_by_side(engines, {"image": image}, backend_name="onnxruntime", rounds=rounds)
    return {
        kind: {count: percentile(samples[f"{kind} {count}"], 25) / 1e3 for count in COUNTS}
        for kind in ("float", "int8")
    }


def stack(channels: int) -> onnx.ModelProto:
    """A layer that makes `channels` of an image, and LAYERS that keep them."""
    random = np.random.default_rng(channels)
    nodes, weights, last = [], [], "image"
    for layer in range(LAYERS + 1):
        inputs = 3 if layer == 0 else channels
        weight = random.standard_normal((channels, inputs, 3, 3)) / np.sqrt(9 * inputs)
        weights += [
            numpy_helper.from_array(weight.astype(np.float32), f"weight{layer}"),
            numpy_helper.from_array(np.zeros(channels, np.float32), f"bias{layer}"),
        ]
        nodes += [
            helper.make_node(
                "Conv", [last, f"weight{layer}", f"bias{layer}"], [f"sum{layer}"], name=f"conv{layer}", pads=[1] * 4
            ),
            helper.make_node("Relu", [f"sum{layer}"], [f"features{layer}"], name=f"relu{layer}"),
        ]
        last = f"features{layer}"
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, channels, SIDE, SIDE])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def quantized(network: onnx.ModelProto, dialect: str) -> onnx.ModelProto:
    """In int8; the ranges do not matter for the time."""
    ranges = {
        tensor: Range(0.0 if tensor.startswith("features") else -4.0, 4.0) for tensor in tensors_to_calibrate(network)
    }
    return quantize(network, Scales("minmax", 1, ranges), DIALECTS[dialect])


def compiled(network: onnx.ModelProto, settings: Mapping[str, Json]) -> Engine:
    return backend("onnxruntime").compile(network.SerializeToString(), settings), settings


def hull(times: Mapping[int, float]) -> list[int]:
    """The counts on the lower convex hull of their times (Andrew's monotone chain)."""
    chain: list[int] = []
    for count in sorted(times):
        while len(chain) > 1 and _above(times, chain[-1], chain[-2], count) >= 0:
            chain.pop()
        chain.append(count)
    return chain


def _above(times: Mapping[int, float], count: int, left: int, right: int) -> float:
    """How far the time of a count lies above the line between those of two others."""
    share = (count - left) / (right - left)
    return times[count] - (1 - share) * times[left] - share * times[right]


def excess(times: Mapping[int, float], chain: Sequence[int], multiple: int) -> tuple[float, float, int]:
    """Time above the hull as a share of it, over the counts that are multiples: the mean, the worst, and where that is."""
    shares = {}
    for count in times:
        if count % multiple == 0:
            left, right = max(at for at in chain if at <= count), min(at for at in chain if at >= count)
            above = _above(times, count, left, right) if left != right else 0.0
            shares[count] = above / (times[count] - above)
    worst = max(shares, key=lambda count: shares[count])
    return sum(shares.values()) / len(shares), shares[worst], worst


if __name__ == "__main__":
    sys.exit(main())
