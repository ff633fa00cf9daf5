"""Compile: the backend's own optimizer makes the engine that ships. What it needs to run, and how it is opened, travel
with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from enginewright.errors import StepFailed
from enginewright.running import Outcome, RunningStep
from enginewright_runtime.backends import Backend, backend
from enginewright_runtime.backends.tensorrt import TensorRT
from enginewright_runtime.canonical import Json

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    name, settings = step.parameters["backend"], step.parameters["settings"]
    chosen = backend(name)
    requires = chosen.requires(settings)
    if requires != step.parameters["requires"]:
        raise StepFailed(
            f"this host makes engines that need {requires}, and the plan wants one that needs {step.parameters['requires']}",
            hint="compile on the kind of computer that the build was planned on",
        )
    engine = _compiled(step, chosen, settings)
    step.output("engine").write_bytes(engine)
    fingerprint = chosen.fingerprint(requires)
    entry = {"fingerprint": fingerprint, "backend": name, "settings": settings, "requires": requires}
    step.output("entry").write_text(json.dumps(entry))
    return Outcome({"engine": fingerprint, "bytes": len(engine)})


def _compiled(step: RunningStep, chosen: Backend, settings: Mapping[str, Json]) -> bytes:
    """The engine; how far TensorRT is, and what it warns of, is told."""
    network = step.inputs["network"].read_bytes()
    if not isinstance(chosen, TensorRT):
        return chosen.compile(network, settings)
    built = chosen.build(network, settings, on_phase=lambda name, done, total: step.progress(done, max(total, 1), name))
    for name in built.on_gpu:
        step.warn(f"not on the DLA, on the GPU: {name}")
    for warning in built.warnings:
        step.warn(warning)
    return built.engine
