"""What `enginewright build --device` prints: the device's own figures beside those of the build. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginewright.build import BuildResult, Job
from enginewright.device.delivery import Delivered
from enginewright.summary import build_json
from enginewright_runtime.bench.percentiles import percentile_lines, percentiles_ns
from enginewright_runtime.measurement import pooled_ns

__all__ = ["delivered_json", "delivered_table"]

_MIB = 2**20


def delivered_json(result: BuildResult, delivered: Delivered) -> dict[str, Any]:
    """The object of a build, with the device's verdict and findings in place of the build's, and `device` besides."""
    interval = delivered.accuracy.interval
    device = {
        "address": str(delivered.address),
        "host": delivered.measurement.host,
        "engine": delivered.entry.fingerprint,
        "accuracy": delivered.accuracy.value,
        "accuracy_interval": list(interval) if interval else None,
        "samples": delivered.samples,
        "latency_ns": percentiles_ns(pooled_ns("engine", delivered.measurement)),
        "peak_memory_bytes": delivered.measurement.peak_memory_bytes("engine"),
        "size_bytes": delivered.size_bytes,
    }
    findings = [finding.to_json() for finding in delivered.findings]
    return {
        **build_json(result),
        "bundle": str(delivered.bundle),
        "verdict": delivered.verdict.value,
        "findings": findings,
        "pending": None,
        "device": device,
    }


def delivered_table(job: Job, result: BuildResult, delivered: Delivered) -> str:
    """Only what was measured on the device, with the accuracies of the build beside its own."""
    accuracy: Mapping[str, Any] = result.result["accuracy"]
    pooled = pooled_ns("engine", delivered.measurement)
    peak = delivered.measurement.peak_memory_bytes("engine")
    rows = [
        (
            f"accuracy ({accuracy['metric']})",
            f"{delivered.accuracy.value:.2%} of {delivered.samples} samples; where it was built {accuracy['engine']:.2%}, "
            f"reference {accuracy['reference']:.2%}",
        ),
        ("latency", _joined(percentile_lines(pooled))),
        ("", f"{len(pooled)} inferences in {len(delivered.measurement.sessions)} fresh processes, caches warm"),
        ("size", f"{delivered.size_bytes / _MIB:.2f} MiB"),
        ("peak memory", f"{peak / _MIB:.1f} MiB with the libraries"),
    ]
    lines = [
        f"{job.recipe.name} for {job.target.name}, measured on {delivered.address}",
        f"engine {delivered.entry.fingerprint}",
        "",
        *(f"  {name:<16}  {text}" for name, text in rows),
        "",
        *(f"  {finding.verdict.value:<13} {finding.sentence}" for finding in delivered.findings),
    ]
    if not delivered.findings:
        lines.append("  no budget is set: nothing to judge")
    lines += [f"verdict: {delivered.verdict.value}"]
    lines += [f"  warning: {step.name}: {text}" for step in result.steps for text in step.record.warnings]
    pages = [str(path) for name, path in result.deliveries.items() if name != "bundle"]
    return "\n".join([*lines, "", str(delivered.bundle), *pages])


def _joined(lines: Sequence[str]) -> str:
    return "; ".join(" ".join(line.split()) for line in lines if "needs" not in line)
