"""The latency of a bundle's engine in fresh processes, back to back, and what its budgets say to that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.percentiles import percentile_lines, percentiles_ns
from enginewright_runtime.bench.sensors import Sensors
from enginewright_runtime.bench.subject import Subject
from enginewright_runtime.budget import Finding, judge, overall
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.caches import Caches
from enginewright_runtime.canonical import Json
from enginewright_runtime.device_needs import meant_power_mode
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.gpu import gpu_words
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.measure import measure
from enginewright_runtime.measurement import Measurement, Protocol, pooled_ns
from enginewright_runtime.paired import disturbed_chunks


def bench_latency(
    measured: Subject, *, sessions: int, caches: Caches, on_progress: Callable[[int, int], None]
) -> tuple[Answer, bytes]:
    """The answer, and the measurement file with all raw samples. There is a verdict where the caches are warm."""
    sensors = Sensors(meant=meant_power_mode(measured.bundle.manifest))
    measurement = measure(
        {"engine": measured.engine}, measured.inputs, sessions=sessions, caches=caches, on_progress=on_progress
    )
    bundle, entry = measured.bundle, measured.entry
    findings = None
    if caches == "warm":
        size_bytes = bundle.manifest.files[entry.path].size
        findings = judge(bundle.manifest.budget, evidence_of(bundle.manifest, measurement, size_bytes=size_bytes))
    return sensors.told_in(bench_answer(bundle, entry, measurement, findings)), measurement.to_bytes()


def bench_answer(
    bundle: Bundle, entry: EngineEntry, measurement: Measurement, findings: Sequence[Finding] | None
) -> Answer:
    """A measurement of one engine with its verdict; `findings` are None where it is none that budgets are judged by."""
    lines = [*measurement_lines(bundle, entry, measurement), *finding_lines(findings or ()), _verdict_line(findings)]
    code = ExitCode.OK if findings is None else overall(findings).exit_code
    return Answer(code, measurement_json(bundle, entry, measurement, findings), lines)


def measurement_json(
    bundle: Bundle, entry: EngineEntry, measurement: Measurement, findings: Sequence[Finding] | None
) -> dict[str, Json]:
    """A measurement of one engine for --json; `findings` as for `bench_answer`."""
    pooled = pooled_ns("engine", measurement)
    return {
        "bundle": str(bundle.path),
        "engine": entry.fingerprint,
        "verdict": None if findings is None else overall(findings).value,
        "findings": [finding.to_json() for finding in findings or ()],
        "samples": len(pooled),
        "latency_ns": percentiles_ns(pooled),
        "peak_memory_bytes": measurement.peak_memory_bytes("engine"),
        "gpu_bytes": measurement.gpu_bytes("engine"),
        "size_bytes": bundle.manifest.files[entry.path].size,
        "protocol": measurement.protocol.to_json(),
        "host": measurement.host,
    }


def measurement_lines(bundle: Bundle, entry: EngineEntry, measurement: Measurement) -> list[str]:
    """The figures of a measurement of one engine, with its protocol beside them."""
    pooled = pooled_ns("engine", measurement)
    processes = f"{len(measurement.sessions)} fresh processes"
    lines = [f"{bundle.manifest.name} on {entry.fingerprint}: {len(pooled)} inferences in {processes}"]
    lines += percentile_lines(pooled)
    protocol = measurement.protocol
    lines.append(
        f"  threads {protocol.threads['engine']}, {_caches(protocol)}, {protocol.clock} clock, "
        f"peak memory {measurement.peak_memory_bytes('engine') / (1 << 20):.1f} MiB with the libraries{_of_the_gpu(measurement)}"
    )
    lines += [f"  GPU {gpu}"] if (gpu := gpu_words(measurement.host)) else []
    lines += filter(None, [disturbed_line(measurement)])
    unsettled = sum(not session.warm_up["engine"].settled for session in measurement.sessions)
    if unsettled:
        lines.append(f"  in {unsettled} of the processes the latency never became steady while warming up")
    return lines


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each budget."""
    return [f"{finding.verdict.value:12} {finding.sentence}" for finding in findings]


def disturbed_line(measurement: Measurement) -> str:
    """In how many chunks clocks changed, which are read where the engine runs on a GPU; empty where they were not. No
    sample is left out for it.
    """
    if (found := disturbed_chunks(measurement, "engine")) is None:
        return ""
    return f"  clocks changed or were throttled in {found[0]} of {found[1]} chunks"


def _verdict_line(findings: Sequence[Finding] | None) -> str:
    if findings is None:
        return "no verdict: budgets are judged with warm caches"
    return f"verdict: {overall(findings).value}" if findings else "verdict: PASS, for the bundle demands nothing"


def _of_the_gpu(measurement: Measurement) -> str:
    taken = measurement.gpu_bytes("engine")
    return f", of them {taken / (1 << 20):.1f} MiB on the GPU" if taken else ""


def _caches(protocol: Protocol) -> str:
    if protocol.caches == "warm":
        return "caches warm"
    return f"caches evicted by {protocol.evicted_bytes / (1 << 20):.0f} MiB before each inference"
