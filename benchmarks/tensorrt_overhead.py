"""What our own Python takes of a call of a TensorRT engine: with a CUDA and a TensorRT that do nothing at all.

Run it:  python benchmarks/tensorrt_overhead.py [--rounds 600] [--profile]
An engine of one input and one output is opened on stand-ins for TensorRT and for pycuda or cuda.bindings: every function
is there and returns at once, so what is left of a call is enginewright's code, its adapters to both of them included,
and numpy's copies into and out of page-locked memory (ordinary memory here). `run` gives arrays of its own, `run_into`
writes into the caller's. The goal is at most 15 microseconds a call. What pycuda and the driver take comes on top of it
on a device: benchmarks/tensorrt_gpu.py takes the whole there.
Protocol: that of benchmarks/runtime_overhead.py, one process, one thread, all ways of calling in turn in random order,
blocks of 50 calls. `--profile` prints where the time goes instead. Ends with 1 where the goal is missed.
"""

from __future__ import annotations

import argparse
import cProfile
import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from runtime_overhead import time_blocks

from enginewright_runtime.host import fingerprint
from enginewright_runtime.stats import percentile
from enginewright_runtime.tensorrt.cuda import Bindings, Cuda, PyCuda
from enginewright_runtime.tensorrt.engine import TensorRTEngine
from enginewright_runtime.tensorrt.library import KINDS, Library
from enginewright_runtime.tensorrt.settings import Settings

GOAL_US = 15.0
SHAPES = {"16 floats": (1, 16), "image 3x64x64": (1, 3, 64, 64)}
_CLASSES = 43
_PROFILED_CALLS = 20_000


class _Bindings:
    """cuda.bindings.driver: each function answers "no error, 1" at once; page-locked memory is a real one."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self) -> None:
        self._buffers: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[int, int]]:
        done = (0, 1)
        return lambda *arguments: done

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[int, int]:  # noqa: N802 - the driver's own name
        self._buffers.append((ctypes.c_uint8 * size)())
        return 0, ctypes.addressof(self._buffers[-1])


class _Memory:
    """pycuda's memory on the GPU."""

    def __int__(self) -> int:
        return 1

    def free(self) -> None: ...


def _through_bindings() -> Cuda:
    return Bindings(_Bindings())


def _through_pycuda() -> Cuda:
    def nothing(*arguments: object, **named: object) -> None: ...
    def no_error(*arguments: object) -> int:
        return 0

    functions = ("cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy")
    ours = ("cuCtxGetCurrent", "cuCtxSetCurrent", "cuGraphLaunch", "cuGraphExecDestroy")
    context = SimpleNamespace(push=nothing, pop=nothing, detach=nothing)
    return PyCuda(
        SimpleNamespace(
            Error=RuntimeError,
            init=nothing,
            Device=lambda index: SimpleNamespace(retain_primary_context=lambda: context),
            Stream=lambda flags: SimpleNamespace(handle=1, synchronize=nothing),
            mem_alloc=lambda size: _Memory(),
            pagelocked_empty=lambda size, dtype, mem_flags: np.zeros(size, dtype),
            memcpy_htod_async=nothing,
            memcpy_dtoh_async=nothing,
        ),
        SimpleNamespace(**dict.fromkeys((*functions, *ours), no_error)),
    )


THROUGH: Mapping[str, Callable[[], Cuda]] = {"pycuda": _through_pycuda, "cuda.bindings": _through_bindings}


def engine_of(shape: tuple[int, ...], *, through: str, cuda_graph: bool) -> TensorRTEngine:
    """An open engine, x of `shape` in and y of 43 scores out, that computes nothing."""
    shapes = {"x": shape, "y": (1, _CLASSES)}
    loaded = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: list(shapes)[index],
        get_tensor_mode=lambda name: "input" if name == "x" else "output",
        get_tensor_dtype=lambda name: SimpleNamespace(name="FLOAT"),
        get_tensor_shape=shapes.__getitem__,
        get_tensor_profile_shape=lambda name, profile: [shapes[name]] * 3,
    )
    context = SimpleNamespace(
        set_input_shape=lambda name, wanted: True,
        get_tensor_shape=shapes.__getitem__,
        set_tensor_address=lambda name, address: True,
        execute_async_v3=lambda stream: True,
    )
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="input"))
    library = Library(KINDS["tensorrt"], trt, "0")
    parts = (None, None, loaded, context)
    before: Any = None  # nobody asks what it takes of the GPU
    cuda = THROUGH[through]()
    return TensorRTEngine(library, cuda, parts, Settings(cuda_graph=cuda_graph), before, in_place=False)


def calls_of(shape: tuple[int, ...], through: str) -> dict[str, Callable[[], object]]:
    """The four ways of calling."""
    inputs = {"x": np.ones(shape, np.float32)}
    outputs = {"y": np.empty((1, _CLASSES), np.float32)}
    plain, captured = (engine_of(shape, through=through, cuda_graph=graph) for graph in (False, True))
    return {
        "run, graph off": lambda: plain.run(inputs),
        "run, graph on": lambda: captured.run(inputs),
        "run_into, graph off": lambda: plain.run_into(inputs, outputs),
        "run_into, graph on": lambda: captured.run_into(inputs, outputs),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--warm-up", type=int, default=20_000, help="calls of each (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args(arguments)
    if options.profile:
        profile()
        return 0
    good = True
    for words, shape in SHAPES.items():
        for through in THROUGH:
            times = time_blocks(calls_of(shape, through), rounds=options.rounds, warm_up=options.warm_up)
            good &= print_times(f"{words}, {through}", times)
    print(
        f"nothing is computed; one input and one output, float32, batch 1, on {fingerprint()['cpu']}, "
        f"Python {fingerprint()['python']}, numpy {np.__version__}, {options.rounds} rounds of 50 calls"
    )
    return 0 if good else 1


def print_times(words: str, us: Mapping[str, Sequence[float]]) -> bool:
    """The table of one shape, against the goal."""
    print(f"{words:<32}{'p25':>8}{'median':>8}{'p75':>8}   microseconds a call")
    for name, times in us.items():
        print(f"{name:<32}{percentile(times, 25):8.2f}{percentile(times, 50):8.2f}{percentile(times, 75):8.2f}")
    slowest = max(percentile(times, 50) for times in us.values())
    print(f"at most {GOAL_US:g} us: {'holds' if slowest <= GOAL_US else 'MISSED'}")
    return slowest <= GOAL_US


def profile() -> None:
    """Where the time of run_into goes, with the graph on."""
    call: Any = calls_of(SHAPES["16 floats"], "pycuda")["run_into, graph on"]
    with cProfile.Profile() as taken:
        for _ in range(_PROFILED_CALLS):
            call()
    taken.print_stats("tottime")


if __name__ == "__main__":
    sys.exit(main())
