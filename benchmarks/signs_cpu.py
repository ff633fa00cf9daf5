"""How much faster the built engine is than the float ONNX of the same network under ONNX Runtime, and what accuracy
that cost.

Run it after `make build`:  python benchmarks/signs_cpu.py [RECIPE] [--sessions 12] Protocol: batch 1, one thread each,
warm caches, wall clock; every session has a fresh process for each engine, warmed up until its median is steady, then
40 rounds in random order of 5 timed inferences each, the first after a switch dropped. A session's figure is the ratio
of the medians; the median over the sessions and their range are printed. CPU time of the same chunks beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np

from enginewright.build import examiner_of, prepare
from enginewright.freshness import examine
from enginewright.project import find_project
from enginewright.record import Record
from enginewright_runtime.measure import EngineToMeasure, measure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="signs")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--sessions", type=int, default=12)
    arguments = parser.parse_args()
    job = prepare(find_project(Path.cwd()), arguments.recipe, arguments.target, settings={})
    records = {item.step.name: item.record for item in examine(examiner_of(job))}
    if None in records.values():
        print(f"build first: enginewright build {arguments.recipe} --target {arguments.target}")
        return 1

    def artifact(step: str, output: str) -> Path:
        record = records[step]
        assert isinstance(record, Record)
        return job.store.object_path(record.outputs[output].digest)

    def engine(step: str) -> EngineToMeasure:
        entry = json.loads(artifact(step, "entry").read_bytes())
        return EngineToMeasure(artifact(step, "engine"), entry["backend"], entry["settings"])

    with np.load(artifact("evaluate", "golden")) as golden:
        inputs = {name.removeprefix("input."): golden[name][:1] for name in golden.files if name.startswith("input.")}
    measurement = measure(
        {"reference": engine("reference/compile"), "engine": engine("compile")},
        inputs,
        sessions=arguments.sessions,
        seed=1,
    )
    wall, cpu = [], []
    for session in measurement.sessions:
        wall.append(
            statistics.median(session.samples_ns["reference"]) / statistics.median(session.samples_ns["engine"])
        )
        cpu.append(statistics.median(session.cpu_ns["reference"]) / statistics.median(session.cpu_ns["engine"]))
    for label in ("reference", "engine"):
        samples = [sample for session in measurement.sessions for sample in session.samples_ns[label]]
        evaluation = json.loads(
            artifact("reference/evaluate" if label == "reference" else "evaluate", "evaluation").read_bytes()
        )
        name = "float ONNX" if label == "reference" else "built engine"
        accuracy = f"{evaluation['metric']} {evaluation['accuracy']:.2%} of {evaluation['samples']}"
        print(f"{name:<14} p50 {statistics.median(samples) / 1e6:.3f} ms   {accuracy}")
    for name, ratios in (("wall clock", wall), ("CPU time", cpu)):
        print(
            f"{name:<14} {statistics.median(ratios):.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} sessions)"
        )
    protocol = measurement.protocol
    print(
        f"{arguments.recipe} on {measurement.host['cpu']}, batch 1, threads {dict(protocol.threads)}, {protocol.caches} caches, "
        f"interleaved in chunks of {protocol.chunk}, fresh processes; both compiled by the target's backend"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
