"""The page of benchmarks/tensorrt_gpu.py: what it is about, and its tables, as Markdown."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tests.gpu.accuracy import Accuracy
from tests.gpu.comparing import CONFIDENCE, percentile_us, ratio_of
from tests.gpu.effort import Effort
from tests.gpu.engines import Recipe

import enginewright_runtime
from enginewright_runtime import host
from enginewright_runtime.canonical import Json
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.telemetry.telemetry import Telemetry, reading_line
from enginewright_runtime.tensorrt.device import probe
from enginewright_runtime.tensorrt.gpu_time import GpuTimes, trtexec_percentile
from enginewright_runtime.tensorrt.library import installed_version

__all__ = ["GOAL_US", "Numbers", "Page", "Row"]

GOAL_US = 15.0
GOAL_TRTEXEC = 0.02
_LIBRARIES = ("numpy", "pycuda", "cuda-python", "cuda-bindings", "onnx")


@dataclass(frozen=True)
class Row:
    """One engine of a recipe. `on_gpu` and `calls` are by whether a graph was used; of calls: the whole one, and the part of
    it that is no waiting. `gpu_bytes`: in a process of its own; `again_bytes`: for a second time in one process.
    """

    precision: str
    size_bytes: int
    accuracy: Accuracy
    on_gpu: Mapping[bool, GpuTimes]
    flags: Mapping[str, Json]
    calls: Mapping[bool, tuple[Sequence[int], Sequence[int]]]
    gpu_bytes: int
    again_bytes: int
    peak_bytes: int
    cold_ns: int
    cached_ns: int
    of_trtexec: float | None
    trtexec_said: str


@dataclass(frozen=True)
class Numbers:
    """A recipe: its engines, and their latencies from one interleaved measurement."""

    recipe: Recipe
    taken: Measurement
    rows: tuple[Row, ...]


class Page:
    """Collects recipes, and reads the sensors when it is made and when it is written."""

    def __init__(self, effort: Effort, trtexec: Path | None) -> None:
        self._effort, self._trtexec = effort, trtexec
        self._telemetry = Telemetry()
        self._before = self._telemetry.read()
        self._recipes: list[Numbers] = []

    def add(self, numbers: Numbers) -> None:
        self._recipes.append(numbers)

    def text(self) -> str:
        """The whole page."""
        parts = [
            self._head(),
            self._accuracy(),
            self._latency(),
            self._on_gpu(),
            self._overhead(),
            self._memory(),
            self._builds(),
            self._layers(),
            self._beside_trtexec(),
        ]
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        device, here = probe(), host.fingerprint()
        lines = [f"# {device.name} with TensorRT {installed_version('tensorrt')}, measured"]
        if self._effort != Effort():
            lines += ["", "**A smoke run: everything was tried with a few iterations, and the figures mean nothing.**"]
        throttled = self._telemetry.read().throttled_since(self._before)
        lines += [
            "",
            "Printed by `benchmarks/tensorrt_gpu.py`, which says how each figure is taken.",
            "",
            f"- day: {time.strftime('%Y-%m-%d', time.gmtime())}",
            f"- GPU: {device.name}, compute capability {device.compute_capability}, {device.sm_count} SMs, "
            f"{device.memory_bytes / 2**30:.0f} GiB{', memory shared with the processor' if device.integrated else ''}",
            f"- driver: for CUDA {device.driver_cuda}",
            f"- software: TensorRT {installed_version('tensorrt')}, {_installed()}, Python {here['python']}, "
            f"enginewright-runtime {enginewright_runtime.__version__}",
            f"- host: {here['cpu']}, {here['cores']} cores, {here['system']} {here['kernel']}",
            f"- power mode: {self._telemetry.power_mode or 'none is told'}",
            f"- before: {reading_line(self._before) or 'no sensor tells'}",
            f"- after: {reading_line(self._telemetry.read()) or 'no sensor tells'}",
            f"- throttled meanwhile: {', '.join(throttled) if throttled else 'not as far as is told'}",
            f"- trtexec: {self._trtexec or 'none here'}",
        ]
        return "\n".join(lines)

    def _accuracy(self) -> str:
        rows = []
        for numbers in self._recipes:
            prepared = numbers.recipe.prepared
            for row in numbers.rows:
                found = row.accuracy
                rows.append(
                    [
                        numbers.recipe.name,
                        row.precision,
                        f"{prepared.metric}, {len(prepared.samples)} samples",
                        f"{prepared.accuracy['reference']:.4f}",
                        f"{prepared.accuracy['twin']:.4f}",
                        f"{found.value:.4f}",
                        f"{found.drop:+.4f} of {found.budget:g} + {found.slack:.4f}",
                        "within" if found.within else "BEYOND",
                    ]
                )
        return _section(
            "Accuracy",
            "On the carried test samples. Reference is the float network and twin the int8 network, both elsewhere. A drop may be "
            "beyond the recipe's budget by two standard errors of the paired difference (tests/gpu/accuracy.py).",
            ["recipe", "engine", "metric", "reference", "twin", "here", "drop", ""],
            rows,
        )

    def _latency(self) -> str:
        rows = []
        for numbers in self._recipes:
            taken = numbers.taken
            for label in taken.engines:
                times = [one for session in taken.sessions for one in session.samples_ns[label]]
                beside = "float16" if "float16" in taken.engines else "int8"
                ratio = "1" if label == beside else str(ratio_of(taken, label, beside))
                rows.append([numbers.recipe.name, label, percentile_us(times, 50), percentile_us(times, 99), ratio])
        protocol = self._recipes[0].taken.protocol if self._recipes else None
        how = (
            f"{protocol.sessions} sessions of fresh processes, {protocol.rounds} rounds of {protocol.chunk} inferences of each in "
            f"random order, batch 1. The ratio is the time as a multiple of float16's, with its bounds at {CONFIDENCE:.0%}."
            if protocol
            else ""
        )
        return _section(
            "Latency",
            f"From call to return, by the wall clock, copies included: {how}",
            ["recipe", "engine", "p50 us", "p99 us", "times float16's"],
            rows,
        )

    def _on_gpu(self) -> str:
        rows = []
        for numbers in self._recipes:
            for row in numbers.rows:
                for graph, taken in row.on_gpu.items():
                    columns = (taken.in_ns, taken.out_ns, taken.enqueue_ns)
                    rows.append(
                        [
                            numbers.recipe.name,
                            row.precision,
                            "on" if graph else "off",
                            *(f"{trtexec_percentile(taken.compute_ns, percent) / 1e3:.1f}" for percent in (50, 99)),
                            *(f"{trtexec_percentile(column, 50) / 1e3:.1f}" for column in columns),
                            str(len(taken.compute_ns)),
                            "; ".join(taken.warnings()),
                        ]
                    )
        flags = self._recipes[0].rows[0].flags if self._recipes else {}
        return _section(
            "On the GPU, as trtexec takes it",
            "Between CUDA events, its percentiles. Flags: "
            + ", ".join(f"{name} {value}" for name, value in flags.items() if name != "cuda_graph")
            + ".",
            ["recipe", "engine", "graph", "compute p50 us", "p99", "in", "out", "enqueue", "samples", "warnings"],
            rows,
        )

    def _overhead(self) -> str:
        rows = []
        for numbers in self._recipes:
            for row in numbers.rows:
                for graph, (whole, rest) in row.calls.items():
                    rows.append(
                        [
                            numbers.recipe.name,
                            row.precision,
                            "on" if graph else "off",
                            *(percentile_us(whole, percent) for percent in (50, 99)),
                            *(percentile_us(rest, percent) for percent in (50, 99)),
                        ]
                    )
        return _section(
            "CUDA graph, and what of a call is ours",
            "`run_into` in one process. The stream's synchronisation is timed inside each call; the rest of the call is Python, the "
            "copies in and out of page-locked memory and the driver's functions that enqueue. "
            f"Goal: at most {GOAL_US:g} us (benchmarks/tensorrt_overhead.py has the Python alone).",
            ["recipe", "engine", "graph", "call p50 us", "p99", "not waiting p50 us", "p99"],
            rows,
        )

    def _memory(self) -> str:
        rows = [
            [
                numbers.recipe.name,
                row.precision,
                f"{row.size_bytes / 2**20:.2f}",
                f"{row.gpu_bytes / 2**20:.1f}",
                f"{row.again_bytes / 2**20:.1f}",
                f"{row.peak_bytes / 2**20:.0f}",
            ]
            for numbers in self._recipes
            for row in numbers.rows
        ]
        return _section(
            "Memory",
            "MiB. Of the GPU: what a process of its own takes there, kernels and libraries included; and what opening the engine takes "
            "a second time, when these are loaded already. Resident: the peak of a process that does nothing but run this engine.",
            ["recipe", "engine", "engine file", "of the GPU", "again", "peak resident"],
            rows,
        )

    def _builds(self) -> str:
        rows = [
            [numbers.recipe.name, row.precision, f"{row.cold_ns / 1e9:.1f}", f"{row.cached_ns / 1e9:.1f}"]
            for numbers in self._recipes
            for row in numbers.rows
        ]
        why = "Seconds; first without any timings of kernels, then with those that the first build kept."
        return _section("Builds", why, ["recipe", "engine", "cold", "with the timings"], rows)

    def _layers(self) -> str:
        lines = [
            "## Layers",
            "",
            "What costs time in int8, by TensorRT's profiler (engines/*/layers.json of the bundles).",
        ]
        for numbers in self._recipes:
            examined = numbers.recipe.finished.examined
            layers = examined.layers if examined is not None else ()
            integer = sum(layer.precision == "int8" for layer in layers)
            lines += ["", f"- {numbers.recipe.name}: {len(layers)} layers, {integer} of them int8"]
            lines += [f"  - {line}" for line in numbers.recipe.layers_to_blame]
        return "\n".join(lines)

    def _beside_trtexec(self) -> str:
        rows = [
            [
                numbers.recipe.name,
                row.precision,
                "-" if row.of_trtexec is None else f"{row.of_trtexec:.3f}",
                "-" if row.of_trtexec is None else "within" if abs(row.of_trtexec - 1) <= GOAL_TRTEXEC else "BEYOND",
                row.trtexec_said.replace("\n", "; "),
            ]
            for numbers in self._recipes
            for row in numbers.rows
        ]
        return _section(
            "Beside trtexec",
            f"The same engine file, ours and trtexec's in turn, {self._effort.takes} times: our median GPU time as a multiple of its. "
            f"Goal: within {GOAL_TRTEXEC:.0%}.",
            ["recipe", "engine", "ratio", "", "flags, or why there is none"],
            rows,
        )


def _installed() -> str:
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _section(title: str, why: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join([f"## {title}", "", why, "", *lines])
