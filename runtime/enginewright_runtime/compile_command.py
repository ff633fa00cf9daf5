"""`enginewright-runtime compile`: its options, and what it answers."""

from __future__ import annotations

import argparse
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
from enginewright_runtime.option_types import positive
from enginewright_runtime.tensorrt.gpu_time import trtexec_percentile


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=positive, default=5, help="how many fresh processes (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="B.ewb", help="where to write (default: the same file)")


def run_compile(
    options: argparse.Namespace, *, on_phase: Callable[[str], None], on_progress: Callable[[str, int, int], None]
) -> Answer:
    """Compile what is pending, and write it into the bundle with its measurement, unless its outputs are wrong."""
    bundle = read_bundle(options.bundle, require_key=options.key)
    output = options.output or options.bundle
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
    whole = {**measured.json, "compiled": finished.compiled, "agrees": True, "warnings": list(finished.warnings)}
    return Answer(measured.code, whole, [*lines, *measured.lines, f"wrote {output}"])


def _device_lines(finished: Finished) -> list[str]:
    """What only an engine on a GPU can tell."""
    lines = []
    if finished.layers:
        integer = sum(one.precision == "int8" for one in finished.layers)
        reformats = sum(one.reformat for one in finished.layers)
        lines.append(f"  {len(finished.layers)} layers, of them {integer} int8 and {reformats} that only reformat")
    if finished.on_gpu is not None:
        median = trtexec_percentile(finished.on_gpu.compute_ns, 50)
        lines.append(f"  GPU time {median / 1e6:.4g} ms at the median, taken as trtexec does without a CUDA graph")
        lines += [f"  warning: {warning}" for warning in finished.on_gpu.warnings()]
    return lines
