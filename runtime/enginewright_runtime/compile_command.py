"""`enginewright-runtime compile`: its options, and what it answers."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.check import agreement_line
from enginewright_runtime.bench.latency import bench_answer
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.canonical import Json
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.finishing import Finished, finish_bundle
from enginewright_runtime.only_writer import only_writer
from enginewright_runtime.option_types import positive
from enginewright_runtime.tensorrt.gpu_time import trtexec_percentile
from enginewright_runtime.unquantized import surely_slower, times_faster


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=positive, default=5, help="how many fresh processes (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="B.ewb", help="where to write (default: the same file)")


def run_compile(
    options: argparse.Namespace, *, on_phase: Callable[[str], None], on_progress: Callable[[str, int, int], None]
) -> Answer:
    """Compile what is pending, and write it into the bundle with its measurement, unless its outputs are wrong."""
    output = options.output or options.bundle
    with only_writer(options.bundle, output):
        bundle = read_bundle(options.bundle, require_key=options.key)
        finished = finish_bundle(
            bundle, output, sessions=options.sessions, on_phase=on_phase, on_progress=partial(on_progress, "session")
        )
    made = "compiled" if finished.compiled else "was there already"
    lines = [f"{bundle.manifest.name} on {finished.entry.fingerprint}: {made}, {finished.size_bytes} bytes"]
    lines += [f"  warning: {warning}" for warning in finished.warnings]
    lines += _device_lines(finished)
    lines += [agreement_line(agreement) for agreement in finished.agreements]
    if finished.measurement is None:
        found: dict[str, Json] = {"bundle": str(output), "engine": finished.entry.fingerprint, "agrees": False}
        return Answer(ExitCode.FAILED, found, [*lines, "nothing was measured, and the bundle is as it was"])
    # The size and the agreements are those of the engine that was just written; its entry is in the new bundle.
    measured = bench_answer(read_bundle(output), finished.entry, finished.measurement, finished.findings)
    comparison = finished.comparison
    whole: dict[str, Json] = {
        **measured.json,
        "compiled": finished.compiled,
        "agrees": True,
        "warnings": list(finished.warnings),
        "times_faster_than_float16": list(times_faster(finished.measurement)),
        "comparison": None if comparison is None else comparison.to_json(),
    }
    return Answer(measured.code, whole, [*lines, *measured.lines, *_float16_lines(finished), f"wrote {output}"])


def _device_lines(finished: Finished) -> list[str]:
    """What only an engine on a GPU can tell."""
    if finished.examined is None:
        return []
    layers, on_gpu = finished.examined.layers, finished.examined.on_gpu
    integer = sum(one.precision == "int8" for one in layers)
    reformats = sum(one.reformat for one in layers)
    median = trtexec_percentile(on_gpu.compute_ns, 50)
    return [
        *([f"  {len(layers)} layers, of them {integer} int8 and {reformats} that only reformat"] if layers else []),
        f"  GPU time {median / 1e6:.4g} ms at the median, taken as trtexec does "
        f"{'with' if on_gpu.cuda_graph else 'without'} a CUDA graph",
        *(f"  warning: {warning}" for warning in on_gpu.warnings()),
    ]


def _float16_lines(finished: Finished) -> list[str]:
    """How many times as fast as the same network in float16 it is, and what its int8 costs."""
    if finished.measurement is None or finished.float16 is None:
        return []
    comparison = finished.comparison
    found = comparison.lines() if comparison else []
    lines = []
    if ratios := times_faster(finished.measurement):
        ratio = statistics.median(ratios)
        said = f"{ratio:.2f} times as fast as the same network in float16"
        lines.append(f"  {said} ({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} sessions)")
        if surely_slower(ratios):
            blamed = "; the layers below are to blame: keep them in float (keep_float)"
            lines.append(
                f"  warning: int8 is slower than float16{blamed if found else ', though none of its layers is by itself'}"
            )
    return [*lines, *(f"    {line}" for line in found)]
