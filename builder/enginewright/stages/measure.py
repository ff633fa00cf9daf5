"""Measure: the latency of the very engine bytes, beside the reference's, in fresh processes, until the budgets are
decided or the cap is reached.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from enginewright.errors import StepFailed
from enginewright.running import Outcome, RunningStep
from enginewright_runtime.backends import Array, backend
from enginewright_runtime.budget import Evidence, Verdict, judge, overall
from enginewright_runtime.golden import golden_from_bytes, one_sample
from enginewright_runtime.host import fingerprint, fingerprint_id
from enginewright_runtime.measure import EngineToMeasure, Measuring
from enginewright_runtime.stats import percentile

__all__ = ["run"]

_MEASURED_BUDGETS = ("latency_p50_ms", "latency_p99_ms", "memory_mib")


def run(step: RunningStep) -> Outcome:
    looks: list[int] = step.parameters["looks"]
    limits = {name: limit for name, limit in step.parameters["budget"].items() if name in _MEASURED_BUDGETS}
    if fingerprint_id(fingerprint()) != step.parameters["host"]:
        raise StepFailed(
            "the build was planned on another host, and a measurement taken here would pass for one of that host",
            hint="run the build where it is to be measured",
        )
    engines = {
        "reference": _engine(step.inputs["reference_engine"], step.inputs["reference_entry"]),
        "engine": _engine(step.inputs["engine"], step.inputs["entry"]),
    }
    inputs = _sample(step, engines["engine"])
    verdict = Verdict.INCONCLUSIVE
    with Measuring(
        engines, inputs, rounds=step.parameters["rounds"], chunk=step.parameters["chunk"], seed=0
    ) as measuring:
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


def _sample(step: RunningStep, engine: EngineToMeasure) -> dict[str, Array]:
    """One real sample, as a camera would give it."""
    golden = golden_from_bytes(step.inputs["golden"].read_bytes())
    with closing(backend(engine.backend).open(engine.path.read_bytes(), engine.settings)) as opened:
        return one_sample(golden.inputs, opened.inputs)


def _engine(path: Path, entry: Path) -> EngineToMeasure:
    described = json.loads(entry.read_bytes())
    return EngineToMeasure(path, described["backend"], described["settings"])
