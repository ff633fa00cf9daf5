"""Measure: the latency of the very engine bytes, beside the reference's, in fresh processes.

With warm caches until the budgets are decided or the cap is reached, and then, in sessions of their own and with fewer
samples, with evicted caches. Of an engine of TensorRT each layer is timed, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from enginewright.hosts import refuse_another_host
from enginewright.running import Outcome, RunningStep
from enginewright_runtime.backends import Array, OpenEngine, backend
from enginewright_runtime.budget import Evidence, Verdict, judge, overall
from enginewright_runtime.canonical import canonical_bytes
from enginewright_runtime.golden import golden_from_bytes, one_sample
from enginewright_runtime.measure import EngineToMeasure, Measuring, WarmUpRule
from enginewright_runtime.measurement import Measurement, pooled_ns
from enginewright_runtime.stats import percentile
from enginewright_runtime.tensorrt.engine import TensorRTEngine
from enginewright_runtime.tensorrt.engine_layers import layers_to_json, with_times
from enginewright_runtime.tensorrt.examine import RUNS

__all__ = ["run"]

_MEASURED_BUDGETS = ("latency_p50_ms", "latency_p99_ms", "memory_mib")

# Evicting makes an inference slower by far more than a warm-up's last percent, so this one is short: it is there for
# memory that is taken once, and for the clocks.
_SHORT_WARM_UP = WarmUpRule(
    least_ns=200_000_000, least_count=20, window=10, steady_share=0.05, steady_times=2, cap_ns=3_000_000_000
)

_Engines = Mapping[str, EngineToMeasure]
_Inputs = Mapping[str, Array]


def run(step: RunningStep) -> Outcome:
    engines = {
        "reference": _engine(step.inputs["reference_engine"], step.inputs["reference_entry"]),
        "engine": _engine(step.inputs["engine"], step.inputs["entry"]),
    }
    refuse_another_host(step.parameters["host"], engines["engine"].backend)
    inputs, layers = _looked_at(step, engines["engine"])
    measurement, verdict = _with_warm_caches(step, engines, inputs)
    evicted = _with_evicted_caches(step, engines, inputs)
    step.output("measurement").write_bytes(measurement.to_bytes())
    step.output("measurement_evicted").write_bytes(evicted.to_bytes())
    step.output("engine_layers").write_bytes(layers)
    pooled = pooled_ns("engine", measurement)
    undecided = "the last measurement could not decide about the budget" if verdict is Verdict.INCONCLUSIVE else ""
    return Outcome(
        {
            "sessions": len(measurement.sessions),
            "samples": len(pooled),
            "p50_ms": percentile(pooled, 50) / 1e6,
            "p50_evicted_ms": percentile(pooled_ns("engine", evicted), 50) / 1e6,
        },
        provisional=undecided,
    )


def _with_warm_caches(step: RunningStep, engines: _Engines, inputs: _Inputs) -> tuple[Measurement, Verdict]:
    """Sessions until every budget that this step can judge is decided, or the last look is over."""
    parameters = step.parameters
    looks: list[int] = parameters["looks"]
    limits = {name: limit for name, limit in parameters["budget"].items() if name in _MEASURED_BUDGETS}
    verdict = Verdict.INCONCLUSIVE
    with Measuring(engines, inputs, rounds=parameters["rounds"], chunk=parameters["chunk"], seed=0) as measuring:
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
                peak_memory_bytes=measurement.peak_memory_bytes("engine"),
            )
            verdict = overall(judge(limits, evidence))
            if verdict is not Verdict.INCONCLUSIVE:
                break
    return measurement, verdict


def _with_evicted_caches(step: RunningStep, engines: _Engines, inputs: _Inputs) -> Measurement:
    sessions, samples = step.parameters["evicted"]["sessions"], step.parameters["evicted"]["samples"]
    with Measuring(
        engines, inputs, rounds=samples, chunk=1, seed=0, warm_up=_SHORT_WARM_UP, caches="evicted"
    ) as measuring:
        for _ in step.tracked(range(sessions), total=sessions, note="measuring with evicted caches"):
            measuring.take_session()
        return measuring.measurement()


def _looked_at(step: RunningStep, engine: EngineToMeasure) -> tuple[dict[str, Array], bytes]:
    """One real sample, as a camera would give it, and what the engine tells of its layers, each timed on that sample."""
    golden = golden_from_bytes(step.inputs["golden"].read_bytes())
    with closing(backend(engine.backend).open(engine.path.read_bytes(), engine.settings)) as opened:
        inputs = one_sample(golden.inputs, opened.inputs)
        return inputs, _layers(opened, inputs)


def _layers(opened: OpenEngine, inputs: Mapping[str, Array]) -> bytes:
    """The file that tells the layers of an engine of TensorRT; it tells of none for any other."""
    if not isinstance(opened, TensorRTEngine):
        return canonical_bytes(layers_to_json(()))
    timed = with_times(opened.layers(), opened.time_layers(inputs, runs=RUNS))
    return canonical_bytes(layers_to_json(timed, runs=RUNS))


def _engine(path: Path, entry: Path) -> EngineToMeasure:
    described = json.loads(entry.read_bytes())
    return EngineToMeasure(path, described["backend"], described["settings"])
