"""The recipes on this GPU: int8 against float16, CUDA graphs, our own overhead, memory, builds, and trtexec.

Run it:  python benchmarks/tensorrt_gpu.py FOLDER [RECIPE ...] [--output docs/measured/NAME.md]
FOLDER is what `python -m tests.gpu.prepare FOLDER` made. The page that it prints is Markdown, and whole: versions,
flags, clocks and power mode stand at its head. Needs a GPU, TensorRT 8.6 or later, and pycuda or cuda.bindings; neither
the builder's libraries nor torch. ENGINEWRIGHT_GPU_EFFORT=smoke tries everything in seconds, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_REPOSITORY / name) for name in ("benchmarks", "runtime", "builder", "")]

from tensorrt_page import Numbers, Page, Row  # noqa: E402 - found through the line above
from tests.gpu.accuracy import judge_accuracy  # noqa: E402
from tests.gpu.comparing import call_times, memory_taken  # noqa: E402
from tests.gpu.effort import Effort, chosen_effort  # noqa: E402
from tests.gpu.engines import Engine, Recipe, build_ns, finish, opened, outputs_on, room_for  # noqa: E402
from tests.gpu.prepared import PreparedError, prepared_names, read_prepared  # noqa: E402
from trtexec import TrtexecFailed, compute_ns, find_trtexec  # noqa: E402

from enginewright_runtime.atomic import write_file  # noqa: E402
from enginewright_runtime.canonical import Json  # noqa: E402
from enginewright_runtime.errors import EnginewrightError  # noqa: E402
from enginewright_runtime.measure import EngineToMeasure, Measurement, measure  # noqa: E402
from enginewright_runtime.tensorrt.device import probe  # noqa: E402
from enginewright_runtime.tensorrt.gpu_time import GpuTimes, time_on_gpu  # noqa: E402

GRAPH: dict[str, Json] = {"cuda_graph": True}  # what an engine is opened with to run through one


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all of the folder")
    parser.add_argument("--output", type=Path, help="write the page there instead of printing it")
    options = parser.parse_args(arguments)
    effort = chosen_effort()
    try:
        probe()
        if not (names := options.recipes or prepared_names(options.folder)):
            raise PreparedError(f"{options.folder} holds no recipe", hint="python -m tests.gpu.prepare FOLDER makes it")
        page = Page(effort, find_trtexec())
        for name in names:
            print(f"{name}: building and measuring", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
                page.add(numbers_of(options.folder, name, Path(folder), effort))
    except EnginewrightError as error:
        print(f"{error.message}\n{error.hint}".rstrip(), file=sys.stderr)
        return 1
    text = page.text()
    if options.output is None:
        print(text, end="")
    else:
        write_file(options.output, text.encode())
    return 0


def numbers_of(carried: Path, name: str, folder: Path, effort: Effort) -> Numbers:
    """All that is measured of one recipe. Raises EnginewrightError."""
    prepared = read_prepared(carried, name)
    with _cache_in(folder / "timings"):
        precisions = ["int8", "float16"] if "unquantized.float16.onnx" in prepared.bundle.contents else ["int8"]
        builds = {}
        for precision in precisions:
            # The timings of the one precision would help the other: each starts with none.
            with _cache_in(folder / f"timings-{precision}"):
                builds[precision] = [build_ns(prepared.bundle, precision) for _ in range(2)]
        recipe = finish(prepared, folder, replace(effort, sessions=1))
    engines = {"int8": recipe.int8, **({"float16": recipe.float16} if recipe.float16 else {})}
    taken = _side_by_side(engines, recipe, folder, effort)
    rows = tuple(
        _row(precision, engine, recipe, taken, builds[precision], folder, effort)
        for precision, engine in engines.items()
    )
    return Numbers(recipe, taken, rows)


@contextmanager
def _cache_in(folder: Path) -> Any:
    before = os.environ.get("ENGINEWRIGHT_CACHE")
    os.environ["ENGINEWRIGHT_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["ENGINEWRIGHT_CACHE"]
        else:
            os.environ["ENGINEWRIGHT_CACHE"] = before


def _side_by_side(engines: Mapping[str, Engine], recipe: Recipe, folder: Path, effort: Effort) -> Measurement:
    """Both precisions with and without a graph, in the same sessions of fresh processes."""
    files = {}
    for precision, engine in engines.items():
        path = folder / precision
        path.write_bytes(engine.data)
        files[precision] = EngineToMeasure(path, "tensorrt", engine.settings)
        files[f"{precision}, graph"] = EngineToMeasure(path, "tensorrt", {**engine.settings, **GRAPH})
    return measure(
        files, recipe.sample, sessions=effort.sessions, rounds=effort.rounds, chunk=effort.chunk, warm_up=effort.warm_up
    )


def _row(
    precision: str,
    engine: Engine,
    recipe: Recipe,
    taken: Measurement,
    builds: Sequence[int],
    folder: Path,
    effort: Effort,
) -> Row:
    sample = recipe.sample
    calls, on_gpu = {}, {}
    for graph in (False, True):
        with opened(engine, cuda_graph=graph) as one:
            room = room_for(one, sample)
            call_times(one, sample, room, effort.timed_calls // 4)  # warm
            calls[graph] = call_times(one, sample, room, effort.timed_calls)
            on_gpu[graph] = _time_on_gpu(one, recipe, effort)
    with opened(engine) as one:
        accuracy = judge_accuracy(recipe.prepared, outputs_on(one, recipe.prepared.samples))
    flags = on_gpu[False].to_json()["flags"]
    lengths = {"warm_up_ms": effort.gpu_warm_up_ns // 10**6, "least_seconds": effort.gpu_ns // 10**9}
    again_bytes, _ = memory_taken(partial(opened, engine), sample)
    ratio, said = _beside_trtexec(folder / precision, engine, recipe, effort)
    return Row(
        precision=precision,
        size_bytes=len(engine.data),
        accuracy=accuracy,
        on_gpu=on_gpu,
        flags={**flags, **lengths} if isinstance(flags, Mapping) else lengths,
        calls=calls,
        gpu_bytes=taken.gpu_bytes(precision),
        again_bytes=again_bytes,
        peak_bytes=max(session.peak_rss_bytes[precision] for session in taken.sessions),
        cold_ns=builds[0],
        cached_ns=builds[1],
        of_trtexec=ratio,
        trtexec_said=said,
    )


def _time_on_gpu(engine: Any, recipe: Recipe, effort: Effort) -> GpuTimes:
    return time_on_gpu(engine, recipe.sample, warm_up_ns=effort.gpu_warm_up_ns, least_ns=effort.gpu_ns)


def _beside_trtexec(file: Path, engine: Engine, recipe: Recipe, effort: Effort) -> tuple[float | None, str]:
    """Our median GPU time as a multiple of trtexec's, in turn; and with which flags, or why there is none."""
    program = find_trtexec()
    if program is None:
        return None, "no trtexec on the PATH or in /usr/src/tensorrt/bin"
    free = {spec.name for spec in recipe.bundle.manifest.inputs if any(isinstance(size, str) for size in spec.shape)}
    shapes = {name: array.shape for name, array in recipe.sample.items() if name in free}
    ratios, flags = [], None
    for _ in range(effort.takes):
        with opened(engine) as one:
            ours = _time_on_gpu(one, recipe, effort)
        try:
            theirs = compute_ns(
                program,
                file,
                shapes,
                warm_up_ms=effort.gpu_warm_up_ns // 1_000_000,
                seconds=effort.gpu_ns // 1_000_000_000,
                flags=flags,
            )
        except TrtexecFailed as error:
            return None, f"trtexec failed: {error}"
        flags = theirs.flags
        ratios.append(statistics.median(ours.compute_ns) / statistics.median(theirs.compute_ns))
    return statistics.median(ratios), " ".join(flags or ())


if __name__ == "__main__":
    sys.exit(main())
