"""Against numbers that were taken before: only on the same host, and only for changes larger than a machine's drift.

Two runs of one engine at different times differ by about 5 % for no reason of the engine's (another placement in
memory, other neighbours, another temperature), and no statistic of one of the runs can know by how much. So the limits
here are far wider than where both run side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from enginewright.gate.progress import GateWatch
from enginewright.gate.result import GateFinding, finding_of_share, undecided
from enginewright.gate.sides import BundleSide, StoredSide
from enginewright_runtime.canonical import Json
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.measure import Measuring
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.sequential import ALPHA_FAIL, ALPHA_PASS, LOOKS, Limits
from enginewright_runtime.stats import percentile, student_t_quantile

__all__ = ["DRIFT_NOTE", "STORED_LIMITS", "compare_with_stored", "host_difference", "measure_alone"]

STORED_LIMITS = {"centre": Limits(0.10, 0.20), "p90": Limits(0.15, 0.25)}
DRIFT_NOTE = (
    "the baseline is stored numbers: a machine drifts by some percent between two runs, so only changes of more than "
    "about 10 % can be told; keep the baseline's bundle, and the gate runs both side by side"
)
_SESSIONS = LOOKS[0]
_LEAST_SPREAD = 5e-4


def host_difference(stored: StoredSide) -> str:
    """In what the host of the measurement differs from this one, as a clause; empty where it is the same."""
    there = stored.measurement.host
    here = fingerprint_for(engine.backend for engine in stored.measurement.engines.values())
    changed = _changed(here, there)
    return f"it was measured on another host (another {', another '.join(changed)})" if changed else ""


def _changed(here: Mapping[str, Json], there: Mapping[str, Json]) -> list[str]:
    """The names of what differs, as "kernel" and "gpu power_mode"."""
    found: list[str] = []
    for key in sorted({*here, *there}):
        mine, theirs = here.get(key), there.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found += [f"{key} {name}" for name in _changed(mine, theirs)]
        elif mine != theirs:
            found.append(key)
    return found


def measure_alone(candidate: BundleSide, stored: StoredSide, *, watch: GateWatch) -> Measurement:
    """The candidate as the stored measurement was taken: its rounds, chunks and warm-up."""
    protocol = stored.measurement.protocol
    watch.note(f"measuring the candidate alone, {_SESSIONS} sessions")
    with Measuring(
        {"candidate": candidate.engine},
        candidate.inputs,
        rounds=protocol.rounds,
        chunk=protocol.chunk,
        seed=0,
        warm_up=protocol.warm_up,
    ) as measuring:
        for _ in range(_SESSIONS):
            measuring.take_session()
        return measuring.measurement()


def compare_with_stored(measured: Measurement, stored: StoredSide) -> tuple[GateFinding, ...]:
    """Centre and p90 by the sessions' own, as two samples with variances of their own (Welch 1947)."""
    mine, theirs = measured.sessions_ns("candidate"), stored.measurement.sessions_ns(stored.label)
    if len(theirs) < 2:
        return tuple(undecided(metric, "the file has fewer than two sessions") for metric in STORED_LIMITS)
    findings = []
    for metric, percent in (("centre", 50.0), ("p90", 90.0)):
        logs = [[math.log(percentile(session, percent)) for session in side] for side in (mine, theirs)]
        findings.append(_finding(metric, logs[0], logs[1]))
    return tuple(findings)


def _finding(metric: str, mine: Sequence[float], theirs: Sequence[float]) -> GateFinding:
    sides = [np.asarray(mine), np.asarray(theirs)]
    errors = [max(float(np.std(side, ddof=1)), _LEAST_SPREAD) ** 2 / side.size for side in sides]
    degrees = sum(errors) ** 2 / sum(error**2 / (side.size - 1) for error, side in zip(errors, sides, strict=True))
    change, error = float(sides[0].mean() - sides[1].mean()), math.sqrt(sum(errors))
    low = change - student_t_quantile(1 - ALPHA_FAIL / len(STORED_LIMITS), degrees) * error
    high = change + student_t_quantile(1 - ALPHA_PASS, degrees) * error
    return finding_of_share(metric, STORED_LIMITS[metric], math.expm1(change), (math.expm1(low), math.expm1(high)))
