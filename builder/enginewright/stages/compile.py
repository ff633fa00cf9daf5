"""Compile: the backend's own optimizer makes the engine that ships. What it needs to run, and how it is opened, travel
with it.
"""

from __future__ import annotations

import json

from enginewright.errors import StepFailed
from enginewright.running import Outcome, RunningStep
from enginewright_runtime.backends import backend

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
    engine = chosen.compile(step.inputs["network"].read_bytes(), settings)
    step.output("engine").write_bytes(engine)
    fingerprint = chosen.fingerprint(requires)
    entry = {"fingerprint": fingerprint, "backend": name, "settings": settings, "requires": requires}
    step.output("entry").write_text(json.dumps(entry))
    return Outcome({"engine": fingerprint, "bytes": len(engine)})
