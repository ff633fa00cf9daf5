"""What a device measured, in tables and sentences: its engine beside the same network in float16, and where the figures are from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from enginewright.report.accuracy import FIDELITY
from enginewright.report.comparison import (
    BudgetRow,
    ComparisonRow,
    Figure,
    accuracy_change,
    accuracy_of,
    budget_rows,
    change_of,
    latency_row,
    metric_name,
    ratio_row,
    verdict_clause,
)
from enginewright.report.data import DeviceRun, Evaluation, Latency, ReportData
from enginewright.report.engine_data import GpuTiming
from enginewright.report.latency import device_percentile_rows, session_ratios, sessions_disagree
from enginewright.units import counted, file_size, milliseconds, points
from enginewright_runtime.unquantized import surely_slower

__all__ = [
    "BudgetGroup",
    "GpuRow",
    "accuracy_note",
    "budget_groups",
    "device_rows",
    "device_title",
    "devices_sentence",
    "gpu_rows",
    "gpu_sentences",
    "slower_warnings",
]


@dataclass(frozen=True)
class BudgetGroup:
    """The findings of one engine; without a title where there is only one."""

    title: str
    rows: tuple[BudgetRow, ...]


@dataclass(frozen=True)
class GpuRow:
    name: str
    value: str


def device_title(run: DeviceRun, runs: Sequence[DeviceRun]) -> str:
    """The device; where several engines ran on devices of that name, the engine's fingerprint."""
    return run.device if sum(other.device == run.device for other in runs) == 1 else run.fingerprint


def devices_sentence(data: ReportData) -> str:
    """The verdict of the devices in one sentence; of a single one with what it was bought with."""
    if len(data.devices) > 1:
        each = ", ".join(f"{run.verdict.value} on {device_title(run, data.devices)}" for run in data.devices)
        return f"{counted(len(data.devices), 'engine')} of this bundle were measured: {each}."
    [run] = data.devices
    said = f"{verdict_clause(run.verdict, run.findings)} on {run.device}"
    gains = [words for words in (_speed(run.latency), _accuracy_words(data, run.evaluation)) if words]
    return f"{said}; there it is {' and '.join(gains)}." if gains else f"{said}."


def budget_groups(data: ReportData) -> tuple[BudgetGroup, ...]:
    """The budgets that the verdict comes from: the build's, or those of each device."""
    if not data.devices:
        return (BudgetGroup("", budget_rows(data.findings)),)
    alone = len(data.devices) == 1
    return tuple(
        BudgetGroup("" if alone else device_title(run, data.devices), budget_rows(run.findings)) for run in data.devices
    )


def device_rows(data: ReportData, run: DeviceRun) -> tuple[ComparisonRow, ...]:
    """The engine beside the same network in float16, one row a figure."""
    rows = [latency_row(row, run.latency) for row in device_percentile_rows(run.latency) if row.percent in (50, 99)]
    if run.gpu is not None:
        median_ns = run.gpu.percentiles_ns.get("p50")
        if median_ns is not None:
            rows.append(
                ComparisonRow("On the GPU alone", Figure(), Figure(milliseconds(median_ns), "median"), Figure())
            )
    rows.append(ComparisonRow("Size", Figure(), Figure(file_size(run.size_bytes)), Figure()))
    return (*rows, _memory_row(run), *_accuracy_rows(data, run.evaluation))


def _memory_row(run: DeviceRun) -> ComparisonRow:
    written = partial(file_size, like=max(run.peak_memory_bytes, run.float16_peak_bytes or 0))
    held, beside = run.peak_memory_bytes, run.float16_peak_bytes
    row = ratio_row("Peak memory", beside, held, written, less="less", more="more")
    on_gpu = f"{file_size(run.gpu_bytes)} of it on the GPU" if run.gpu_bytes else ""
    return replace(row, engine=replace(row.engine, note=on_gpu))


def accuracy_note(data: ReportData, run: DeviceRun) -> str:
    """Where the accuracy comes from; empty where there is none."""
    found = run.evaluation or data.engine.evaluation
    if found is None or found.accuracy is None:
        return ""
    change = accuracy_change(data.reference.evaluation, found)
    against = f", {points(change)} against the reference" if change is not None and found.metric != FIDELITY else ""
    if run.evaluation is None:
        return f"No test samples were run on the device: the accuracy is that of the build{against}."
    return f"The accuracy is that of this engine, on {found.samples:,} test samples run on the device{against}."


def gpu_rows(gpu: GpuTiming) -> tuple[GpuRow, ...]:
    """The computation, the copies where there are any, and how long the processor takes to enqueue it."""
    copies = (("copies in, median", gpu.copies_in_ns), ("copies out, median", gpu.copies_out_ns))
    return (
        *(GpuRow(f"computation, {name}", milliseconds(value)) for name, value in gpu.percentiles_ns.items()),
        *(GpuRow(name, milliseconds(value)) for name, value in copies if value),
        GpuRow("enqueueing by the processor, median", milliseconds(gpu.enqueue_ns)),
    )


def gpu_sentences(gpu: GpuTiming) -> tuple[str, ...]:
    return (
        f"{counted(gpu.samples, 'inference')} of one process, timed by events on the GPU as trtexec does, and the "
        "percentiles are trtexec's. Budgets are judged by the wall clock, over fresh processes.",
        f"Flags: {', '.join(gpu.flags)}.",
    )


def slower_warnings(runs: Sequence[DeviceRun]) -> tuple[str, ...]:
    """A warning for each engine that is slower than float16, which a pair in the wrong place makes it."""
    return tuple(
        f"on {device_title(run, runs)} the engine is {_speed(run.latency)}: keep the layers that its section blames in float "
        "(keep_float in the recipe), and build again"
        for run in runs
        if surely_slower(session_ratios(run.latency))
    )


def _speed(latency: Latency) -> str:
    """How fast the engine is against float16, by the medians; "as fast" where the sessions do not agree."""
    ratios = session_ratios(latency)
    if not ratios:
        return ""
    words, trend = change_of(statistics.median(ratios), less="as fast as", more="slower than")
    if sessions_disagree(ratios) or trend == "same":
        words = "as fast as"
    return f"{words} the same network in float16"


def _accuracy_words(data: ReportData, evaluation: Evaluation | None) -> str:
    change = accuracy_change(data.reference.evaluation, evaluation)
    if change is None or data.metric == FIDELITY:
        return ""
    if round(change, 4) == 0:
        return "as accurate as the reference"
    return f"{abs(change) * 100:.2f} points {'more' if change > 0 else 'less'} accurate than the reference"


def _accuracy_rows(data: ReportData, evaluation: Evaluation | None) -> list[ComparisonRow]:
    """The device's own accuracy, or the twin's: `accuracy_note` says which it is."""
    found = evaluation or data.engine.evaluation
    if found is None or found.accuracy is None:
        return []
    return [ComparisonRow(metric_name(found.metric), Figure(), accuracy_of(found), Figure())]
