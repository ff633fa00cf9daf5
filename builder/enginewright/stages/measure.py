"""Measure: the latency of the very engine bytes, beside the reference's, in fresh processes, until the budgets are
decided or the cap is reached.
"""

from __future__ import annotations

import json
from pathlib import Path

from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature
from enginewright_runtime.budget import Evidence, Verdict, judge, overall
from enginewright_runtime.measure import EngineToMeasure, Measuring
from enginewright_runtime.npz import read_npz
from enginewright_runtime.stats import percentile

__all__ = ["CHUNK", "ROUNDS", "run"]

ROUNDS = 40
CHUNK = 5
_MEASURED_BUDGETS = ("latency_p50_ms", "latency_p99_ms", "memory_mib")


def run(step: RunningStep) -> Outcome:
    looks: list[int] = step.parameters["looks"]
    limits = {name: limit for name, limit in step.parameters["budget"].items() if name in _MEASURED_BUDGETS}
    signature = Signature.from_json(step.parameters["model"])
    golden = read_npz(step.inputs["golden"].read_bytes())
    inputs = {name: golden[f"input.{name}"][: signature.batch_size(1)] for name in signature.inputs}
    engines = {
        "reference": _engine(step.inputs["reference_engine"], step.inputs["reference_entry"]),
        "engine": _engine(step.inputs["engine"], step.inputs["entry"]),
    }
    verdict = Verdict.INCONCLUSIVE
    with Measuring(engines, inputs, rounds=ROUNDS, chunk=CHUNK, seed=0) as measuring:
        done = 0
        for look in looks:
            while done < look:
                step.progress(done, look, "measuring")
                measuring.take_session()
                done += 1
            measurement = measuring.measurement()
            evidence = Evidence(
                sessions_ns=measurement.sessions_ns("engine"),
                looks=len(looks),
                peak_memory_bytes=measurement.peak_rss_bytes("engine"),
            )
            verdict = overall(judge(limits, evidence))
            if verdict is not Verdict.INCONCLUSIVE:
                break
    step.output("measurement").write_bytes(measurement.to_bytes())
    pooled = [sample for session in measurement.sessions_ns("engine") for sample in session]
    undecided = "the last measurement could not decide about the budget" if verdict is Verdict.INCONCLUSIVE else ""
    return Outcome(
        {"sessions": done, "samples": len(pooled), "p50_ms": percentile(pooled, 50) / 1e6}, provisional=undecided
    )


def _engine(path: Path, entry: Path) -> EngineToMeasure:
    described = json.loads(entry.read_bytes())
    return EngineToMeasure(path, described["backend"], described["settings"])
