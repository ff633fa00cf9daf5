"""What the templates read of a measurement and of a device, already computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from enginewright.report import charts, comparison, device
from enginewright.report.data import DeviceRun, Latency, ReportData
from enginewright.report.engine_layers import EngineView, engine_view
from enginewright.report.latency import (
    PercentileRow,
    SessionMedians,
    device_percentile_rows,
    percentile_rows,
    protocol_sentences,
    session_medians,
)
from enginewright_runtime.budget import Finding

__all__ = ["DeviceView", "MeasuredView", "device_views", "measured_view"]


@dataclass(frozen=True)
class MeasuredView:
    """One measurement. `beside` is the word for what the engine was measured beside, empty where it was alone."""

    latency: Latency
    percentiles: tuple[PercentileRow, ...]
    medians: tuple[SessionMedians, ...]
    protocol: tuple[str, ...]
    limits: tuple[charts.LimitLine, ...]
    far_limits: tuple[charts.LimitLine, ...]
    beside: str


@dataclass(frozen=True)
class DeviceView:
    """One engine that a device measured. `place` is where the page has it."""

    run: DeviceRun
    title: str
    place: str
    rows: tuple[comparison.ComparisonRow, ...]
    accuracy: str
    measured: MeasuredView
    gpu: tuple[device.GpuRow, ...]
    gpu_sentences: tuple[str, ...]
    engine: EngineView | None


def measured_view(
    latency: Latency, findings: Sequence[Finding], *, beside: str = "reference", reference: str = "the reference"
) -> MeasuredView:
    """`reference` is what `beside` is called in a sentence."""
    limits = _limit_lines(findings)
    near = charts.limits_in_reach(latency, limits)
    return MeasuredView(
        latency=latency,
        percentiles=percentile_rows(latency),
        medians=session_medians(latency),
        protocol=protocol_sentences(latency, reference=reference),
        limits=near,
        far_limits=tuple(line for line in limits if line not in near),
        beside=beside if latency.reference_ns else "",
    )


def device_views(data: ReportData) -> tuple[DeviceView, ...]:
    return tuple(
        DeviceView(
            run=run,
            title=device.device_title(run, data.devices),
            place=f"device-{number}",
            rows=device.device_rows(data, run),
            accuracy=device.accuracy_note(data, run),
            measured=replace(
                measured_view(run.latency, run.findings, beside="float16", reference="the engine in float16"),
                percentiles=device_percentile_rows(run.latency),
            ),
            gpu=device.gpu_rows(run.gpu) if run.gpu else (),
            gpu_sentences=device.gpu_sentences(run.gpu) if run.gpu else (),
            engine=engine_view(run.layers) if run.layers else None,
        )
        for number, run in enumerate(data.devices, 1)
    )


def _limit_lines(findings: Sequence[Finding]) -> tuple[charts.LimitLine, ...]:
    return tuple(
        charts.LimitLine(comparison.budget_name(finding.name).removesuffix(" latency"), finding.limit)
        for finding in findings
        if finding.name.startswith("latency_") and finding.name.endswith("_ms")
    )
