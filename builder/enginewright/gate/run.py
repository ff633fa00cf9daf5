"""One run of the gate: a candidate against one baseline or several, and the worst verdict of all."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginewright.errors import UsageError
from enginewright.gate.exact import accuracy_finding, memory_finding, size_finding, stored_memory_finding
from enginewright.gate.paired import CANDIDATE, Pairs, measure_pairs
from enginewright.gate.progress import GateWatch
from enginewright.gate.result import Comparison, GateFinding, GateResult, finding_of_change, undecided
from enginewright.gate.sides import BundleSide, StoredSide, read_bundle_side, read_side
from enginewright.gate.stored import DRIFT_NOTE, compare_with_stored, host_difference, measure_alone
from enginewright_runtime.budget import Verdict
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.paired import GATE_WARM_UP, share_dropped
from enginewright_runtime.sequential import PROFILES
from enginewright_runtime.warm_up import WarmUpRule

__all__ = ["METRICS", "GateRun", "run_gate"]

METRICS = ("latency", "accuracy", "size", "memory")


@dataclass(frozen=True)
class GateRun:
    """The result, and the measurements that it comes from."""

    result: GateResult
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, kw_only=True)
class _Job:
    candidate: BundleSide
    profile: str
    metrics: Sequence[str]
    watch: GateWatch
    max_seconds: float | None
    warm_up: WarmUpRule


def run_gate(
    candidate: Path,
    against: Sequence[Path],
    *,
    watch: GateWatch,
    profile: str = "strict",
    metrics: Sequence[str] = METRICS,
    max_seconds: float | None = None,
    warm_up: WarmUpRule = GATE_WARM_UP,
) -> GateRun:
    """Judge `candidate` against each of `against`, which are bundles or files of measurements.

    All bundles are measured together, so that several cost little more than one. `metrics` are of METRICS. Raises
    BundleError where a file is no bundle, NoEngineFits where latency is asked for and an engine does not run here,
    MeasurementError where a process dies.
    """
    begin = time.monotonic()
    to_run = "latency" in metrics
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        sides = {
            _label(index, len(against)): read_side(path, Path(folder), to_run=to_run)
            for index, path in enumerate(against)
        }
        job = _Job(
            candidate=read_bundle_side(candidate, Path(folder), to_run=to_run),
            profile=profile,
            metrics=metrics,
            watch=watch,
            max_seconds=max_seconds,
            warm_up=warm_up,
        )
        bundles = {label: side for label, side in sides.items() if isinstance(side, BundleSide)}
        pairs = _measure(job, bundles)
        comparisons, measurements, notes = [], [pairs.measurement] if pairs else [], _input_notes(job, bundles)
        for label, side in sides.items():
            if isinstance(side, BundleSide):
                comparisons.append(_against_bundle(job, label, side, pairs))
            else:
                comparison, measured = _against_stored(job, side)
                comparisons.append(comparison)
                measurements += [measured] if measured else []
                notes.append(f"{side.path}: {DRIFT_NOTE}")
                if "accuracy" in metrics:
                    notes.append(f"{side.path}: accuracy is not judged, for such a file has none")
    result = GateResult(
        candidate=str(candidate),
        profile=profile,
        comparisons=tuple(comparisons),
        samples=sum(len(samples) for one in measurements for samples in one.sessions_ns(CANDIDATE)),
        seconds=time.monotonic() - begin,
        host=fingerprint_for([job.candidate.engine.backend] if "latency" in metrics else []),
        notes=tuple(notes),
    )
    return GateRun(result, tuple(measurements))


def _measure(job: _Job, bundles: Mapping[str, BundleSide]) -> Pairs | None:
    """None where no engine differs from the candidate's, or latency is not asked for."""
    others = {label: side for label, side in bundles.items() if not side.runs_the_same_engine_as(job.candidate)}
    if not others or "latency" not in job.metrics:
        return None
    return measure_pairs(
        job.candidate.engine,
        {label: side.engine for label, side in others.items()},
        job.candidate.inputs,
        PROFILES[job.profile],
        watch=job.watch,
        max_seconds=job.max_seconds,
        warm_up=job.warm_up,
    )


def _against_bundle(job: _Job, label: str, side: BundleSide, pairs: Pairs | None) -> Comparison:
    measured = pairs.sides.get(label) if pairs else None
    decision = measured.decision if measured else None
    findings: list[GateFinding] = []
    if "latency" in job.metrics:
        findings += _latency_findings(job, label, side, pairs)
    if "accuracy" in job.metrics:
        findings.append(accuracy_finding(job.candidate.accuracy, side.accuracy, job.profile))
    if "size" in job.metrics:
        findings.append(size_finding(job.candidate.size_bytes, side.size_bytes, job.profile))
    if "memory" in job.metrics:
        findings.append(_memory(job, label, side, pairs))
    return Comparison(
        against=str(side.path),
        findings=tuple(findings),
        sessions=decision.sessions if decision else 0,
        dropped_share=share_dropped(measured.pairs) if measured else 0.0,
        stopped=pairs.stopped if pairs and measured else "",
    )


def _latency_findings(job: _Job, label: str, side: BundleSide, pairs: Pairs | None) -> list[GateFinding]:
    if side.runs_the_same_engine_as(job.candidate):
        return [_same("latency")]
    assert pairs is not None
    decision = pairs.sides[label].decision
    if decision is None:
        return [undecided("latency", pairs.stopped or "fewer than two sessions were valid")]
    return [finding_of_change(change, decision.verdict) for change in decision.changes]


def _memory(job: _Job, label: str, side: BundleSide, pairs: Pairs | None) -> GateFinding:
    if side.runs_the_same_engine_as(job.candidate):
        return _same("memory")
    if pairs is None:
        return stored_memory_finding(job.candidate, side, job.profile)
    sessions = pairs.measurement.sessions
    mine, theirs = ([session.peak_memory_bytes(one) for session in sessions] for one in (CANDIDATE, label))
    return memory_finding(mine, theirs, job.profile)


def _same(metric: str) -> GateFinding:
    return GateFinding(
        metric=metric,
        verdict=Verdict.PASS,
        sentence=f"{metric} cannot differ: both bundles hold the same engine, to the byte",
        value=0.0,
        low=0.0,
        high=0.0,
    )


def _against_stored(job: _Job, side: StoredSide) -> tuple[Comparison, Measurement | None]:
    """A file has no accuracy: it is not judged, and a note says so."""
    stored = side.measurement
    if difference := host_difference(side):
        return Comparison(against=str(side.path), findings=(undecided("latency", difference),)), None
    engine, measured, findings_found = stored.engines[side.label], None, list[GateFinding]()
    if "latency" in job.metrics:
        measured = measure_alone(job.candidate, side, watch=job.watch)
        findings_found += compare_with_stored(measured, side)
    if "size" in job.metrics:
        findings_found.append(size_finding(job.candidate.size_bytes, engine.size_bytes, job.profile))
    if "memory" in job.metrics and measured is None:
        findings_found.append(undecided("memory", "no latency was asked for, so that no memory was measured"))
    elif "memory" in job.metrics and measured is not None:
        peaks = sorted(session.peak_memory_bytes(side.label) for session in stored.sessions)
        usual = peaks[len(peaks) // 2]
        mine = [session.peak_memory_bytes(CANDIDATE) for session in measured.sessions]
        findings_found.append(memory_finding(mine, [usual] * len(mine), job.profile))
    if not findings_found:
        raise UsageError(
            f"{side.path}: a file of a measurement tells latency, size and memory alone",
            hint="name the baseline's bundle",
        )
    comparison = Comparison(
        against=str(side.path),
        findings=tuple(findings_found),
        sessions=len(measured.sessions) if measured else 0,
    )
    return comparison, measured


def _input_notes(job: _Job, bundles: Mapping[str, BundleSide]) -> list[str]:
    return [
        f"{side.path}: its inputs are not those of the candidate: each ran on its own golden sample"
        for side in bundles.values()
        if side.specs != job.candidate.specs
    ]


def _label(index: int, baselines: int) -> str:
    return "baseline" if baselines == 1 else f"baseline {index + 1}"
