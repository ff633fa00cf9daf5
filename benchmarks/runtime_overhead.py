"""What a call of the runtime costs beyond the engine itself, and that a million calls leave nothing behind.

Run it:  python benchmarks/runtime_overhead.py [--rounds 600] [--calls 1000000]
A network of one matrix product and one activation takes so little time that the rest of a call can be seen. Ours is
`enginewright_runtime.open(...).run`: names, dtypes and shapes are checked, and each call gives arrays of its own. It is
measured against three ways of calling ONNX Runtime with the same engine, inputs and threads and no checks of ours:

- bare: `InferenceSession.run`;
- bound anew: I/O binding, where each call binds its input and its output, and copies the output out;
- bound once: I/O binding to memory that stays, where the input is already in place and the output stays there. It is
  the floor: a caller who uses it copies each frame into that memory, and the next call overwrites the output.

The row "watched" is ours while a Watch observes it (enginewright_runtime/watch).
Protocol: one process, one thread, warm caches, wall clock; all take turns in random order in blocks of 50 calls, after
a warm-up of 20,000 calls each. A difference is taken within each round, so that what disturbs a round disturbs both
sides of it; printed are the median and its 95 % interval, and for each way of calling the quartiles.
Growth: after 10,000 calls to settle, what Python allocates (tracemalloc) and what the process holds (resident memory),
each over that many calls. Ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import enginewright_runtime
from enginewright_runtime.backends import Array, backend
from enginewright_runtime.bundle import write_bundle
from enginewright_runtime.host import fingerprint
from enginewright_runtime.manifest import EngineEntry, Manifest, TensorSpec
from enginewright_runtime.stats import median_interval, percentile
from enginewright_runtime.watch import Watch

GOAL_US = 5.0  # a call of ours above the fastest of the others
GOAL_TRACED = 4_096  # bytes: what a dictionary or two that grow by chance may take
GOAL_RESIDENT = 1 << 20
BLOCK = 50
WARM_UP = 20_000
SETTLE = 10_000
SETTINGS = {"threads": 1}

Call = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--calls", type=int, default=1_000_000, help="over which nothing may grow (%(default)s)")
    options = parser.parse_args(arguments)
    frame = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        session = enginewright_runtime.open(tiny_bundle(Path(folder) / "tiny.ewb"))
    feed = {"x": frame}
    calls: dict[str, Call] = {"enginewright": lambda: session.run(feed), **peers(feed)}
    with Watch({"latency_p99_ms": 1.0}) as watch:
        watched = watch.observed(session.run)
        times = time_blocks({**calls, "watched": lambda: watched(feed)}, rounds=options.rounds)
    good = print_overhead(times)
    good &= print_growth(calls["enginewright"], options.calls)
    print(
        f"x @ W (16x8) and ReLU, ONNX Runtime {enginewright_runtime.backends.backend('onnxruntime').requires()['onnxruntime']}, "
        f"batch 1, one thread, on {fingerprint()['cpu']}, Python {fingerprint()['python']}, warm caches, wall clock; "
        f"interleaved in one process, {options.rounds} rounds of {BLOCK} calls each"
    )
    return 0 if good else 1


def print_overhead(us: Mapping[str, Sequence[float]]) -> bool:
    """The table of times, and the differences that the goal is about."""
    print(f"{'':<14}{'p25':>8}{'median':>8}{'p75':>8}   microseconds a call")
    for name, times in us.items():
        print(f"{name:<14}{percentile(times, 25):8.2f}{percentile(times, 50):8.2f}{percentile(times, 75):8.2f}")
    ours = us["enginewright"]
    others = [name for name in us if name not in ("enginewright", "watched")]
    for name in others:
        low, middle, high = difference(ours, us[name])
        print(f"above {name:<12} {middle:+6.2f} us ({low:+.2f} to {high:+.2f})")
    if "watched" in us:
        low, middle, high = difference(us["watched"], ours)
        print(f"being watched adds {middle:+.2f} us ({low:+.2f} to {high:+.2f})")
    fastest = min(others, key=lambda name: percentile(us[name], 50))
    holds = difference(ours, us[fastest])[2] <= GOAL_US
    print(f"at most {GOAL_US:g} us above the fastest of them ({fastest}): {'holds' if holds else 'MISSED'}")
    return holds


def print_growth(call: Call, count: int) -> bool:
    """What many calls leave behind, against the goal."""
    for _ in range(SETTLE):
        call()
    resident = resident_growth(call, count)
    traced = traced_growth(call, count)
    holds = traced <= GOAL_TRACED and resident <= GOAL_RESIDENT
    print(
        f"after {count:,} calls: {traced:+,} bytes that Python allocated, {resident:+,} bytes resident: "
        f"{'nothing grows' if holds else 'IT GROWS'}"
    )
    return holds


def time_blocks(
    calls: Mapping[str, Call], *, rounds: int, seed: int = 0, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Microseconds a call, one figure a round for each way of calling."""
    generator = random.Random(seed)
    for call in calls.values():
        time_block_us(call, warm_up)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    gc.disable()  # its turn would come in one block and be counted there
    try:
        for _ in range(rounds):
            for name in generator.sample(list(calls), len(calls)):
                time_block_us(calls[name], 2)  # finds the others' data in the caches
                taken[name].append(time_block_us(calls[name], BLOCK))
            gc.collect(0)
    finally:
        gc.enable()
    return taken


def time_block_us(call: Call, count: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - begin) / count / 1e3


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """By how many microseconds ours is slower: the low end, the median over the rounds, and the high end."""
    return median_interval([one - other for one, other in zip(ours, theirs, strict=True)])


def traced_growth(call: Call, count: int) -> int:
    """How many bytes more Python holds after `count` calls."""
    tracemalloc.start()
    try:
        for _ in range(SETTLE):
            call()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(count):
            call()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def resident_growth(call: Call, count: int) -> int:
    """How many bytes more of this process are resident after `count` calls."""
    gc.collect()
    before = resident_bytes()
    for _ in range(count):
        call()
    gc.collect()
    return resident_bytes() - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peers(feed: Mapping[str, Array]) -> dict[str, Call]:
    """The other ways of calling the same engine."""
    import onnxruntime

    engine = backend("onnxruntime").compile(tiny_model(), SETTINGS)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(engine, options, providers=["CPUExecutionProvider"])
    anew, once = session.io_binding(), session.io_binding()
    once.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(feed["x"]))
    once.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(np.empty((1, 8), np.float32)))

    def bound_anew() -> object:
        anew.bind_cpu_input("x", feed["x"])
        anew.bind_output("y")
        session.run_with_iobinding(anew)
        return anew.copy_outputs_to_cpu()

    return {
        "bare": lambda: session.run(None, feed),
        "bound anew": bound_anew,
        "bound once": lambda: session.run_with_iobinding(once),
    }


def tiny_model() -> bytes:
    weights = np.linspace(-1, 1, 128, dtype=np.float32).reshape(16, 8)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["product"]), helper.make_node("Relu", ["product"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def tiny_bundle(path: Path) -> Path:
    chosen = backend("onnxruntime")
    requires = chosen.requires()
    fingerprint = chosen.fingerprint(requires)
    engine_path = f"engines/{fingerprint}/engine"
    manifest = Manifest(
        name="tiny",
        target="cpu",
        inputs=(TensorSpec("x", ("batch", 16), "float32"),),
        outputs=(TensorSpec("y", ("batch", 8), "float32"),),
        engines=(EngineEntry(fingerprint, "onnxruntime", engine_path, SETTINGS, requires),),
    )
    write_bundle(path, manifest, {engine_path: chosen.compile(tiny_model(), SETTINGS)})
    return path


if __name__ == "__main__":
    sys.exit(main())
