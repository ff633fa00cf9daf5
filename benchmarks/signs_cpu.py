"""How much faster the built engine is than the float ONNX of the same network under ONNX Runtime, and what accuracy
that cost.

Run it after `make build`:  python benchmarks/signs_cpu.py [RECIPE] [--sessions 12]

Protocol: batch 1, one thread each, wall clock; every session has a fresh process for each engine, warmed up until its
median is steady. With warm caches: 40 rounds in random order of 5 timed inferences each, the first after a switch
dropped. With evicted caches, in sessions of their own: 40 rounds of one timed inference each, before which the process
drives its data out of the caches. A session's figure is the ratio of the medians; the median over the sessions and
their range are printed. CPU time of the same inferences beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from enginewright.build import examiner_of, prepare
from enginewright.freshness import examine
from enginewright.project import find_project
from enginewright.record import Record
from enginewright_runtime.caches import Caches
from enginewright_runtime.measure import EngineToMeasure, Measurement, measure
from enginewright_runtime.measurement import pooled_ns

NAMES = {"reference": "float ONNX", "engine": "built engine"}
CHUNKS: Mapping[Caches, int] = {"warm": 5, "evicted": 1}


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
    engines = {"reference": engine("reference/compile"), "engine": engine("compile")}
    for label, step in (("reference", "reference/evaluate"), ("engine", "evaluate")):
        evaluation = json.loads(artifact(step, "evaluation").read_bytes())
        print(f"{NAMES[label]:<14} {evaluation['metric']} {evaluation['accuracy']:.2%} of {evaluation['samples']}")
    for caches, chunk in CHUNKS.items():
        show(measure(engines, inputs, sessions=arguments.sessions, chunk=chunk, seed=1, caches=caches))
    print(f"{arguments.recipe}; both compiled by the target's backend")
    return 0


def show(measurement: Measurement) -> None:
    """The medians, the ratios by wall clock and CPU time, and how they were taken."""
    protocol = measurement.protocol
    print(f"{protocol.caches} caches")
    for label, name in NAMES.items():
        print(f"  {name:<14} p50 {statistics.median(pooled_ns(label, measurement)) / 1e6:.3f} ms")
    samples = [session.samples_ns for session in measurement.sessions]
    cpu = [session.cpu_ns for session in measurement.sessions]
    for name, sessions in (("wall clock", samples), ("CPU time", cpu)):
        ratios = [statistics.median(taken["reference"]) / statistics.median(taken["engine"]) for taken in sessions]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} sessions"
        print(f"  {name:<14} {statistics.median(ratios):.2f} times faster ({spread})")
    evicted = f" by {protocol.evicted_bytes >> 20} MiB before each inference" if protocol.evicted_bytes else ""
    print(
        f"  on {measurement.host['cpu']}, batch 1, threads {dict(protocol.threads)}, caches {protocol.caches}{evicted}, "
        f"interleaved in chunks of {protocol.chunk}, fresh processes"
    )


if __name__ == "__main__":
    sys.exit(main())
