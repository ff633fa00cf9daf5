"""Compile: the backend's own optimizer makes the engine that ships. What it needs to run, and how it is opened, travel
with it.
"""

from __future__ import annotations

import json

from enginewright.running import Outcome, RunningStep
from enginewright_runtime.backends import backend

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    name, settings = step.parameters["backend"], step.parameters["settings"]
    chosen = backend(name)
    engine = chosen.compile(step.inputs["network"].read_bytes(), settings)
    requires = chosen.requires()
    step.output("engine").write_bytes(engine)
    fingerprint = chosen.fingerprint(requires)
    entry = {"fingerprint": fingerprint, "backend": name, "settings": settings, "requires": requires}
    step.output("entry").write_text(json.dumps(entry))
    return Outcome({"engine": fingerprint, "bytes": len(engine)})
