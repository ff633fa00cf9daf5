"""The self-test of a bundle that is about to be installed, in processes of its own: an engine that crashes, hangs or
eats all memory ends them, and is found out, before any application opens it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enginewright_runtime.budget import Finding, Verdict, judge, overall
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.errors import EnginewrightError, InstallationError
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.golden import one_sample, read_golden
from enginewright_runtime.measure import EngineToMeasure, measure
from enginewright_runtime.session import fitting_engine
from enginewright_runtime.worker_process import WorkerProcess

SESSIONS = 3  # 600 samples: enough for a p99 to be judged, and taken in some seconds
_LIMIT_S = 300.0


@dataclass(frozen=True)
class Rehearsal:
    """How a self-test went. `failure` is why the bundle must not be installed, and empty where it may."""

    failure: str
    findings: tuple[Finding, ...] = ()


def rehearse_golden(bundle: Bundle) -> Rehearsal:
    """Open the bundle's file as an application would, and compare the golden outputs.

    Raises InstallationError where this machine cannot run a self-test, whatever the bundle.
    """
    try:
        with _able(), WorkerProcess("self-test", answer_limit_s=_LIMIT_S) as worker:
            outputs = worker.ask("rehearse", bundle=str(bundle.path), sha256=bundle.sha256).field("outputs").items()
            for output in outputs:
                if not output.field("agrees").boolean():
                    return Rehearsal(f"its output {output.field('name').text()!r} is not the golden one")
    except InstallationError:
        raise
    except EnginewrightError as error:
        return Rehearsal(error.message)
    return Rehearsal("")


def rehearse(bundle: Bundle) -> Rehearsal:
    """The golden outputs, and then every budget, judged on a few sessions. What stays open is no failure.

    Raises InstallationError as `rehearse_golden` does.
    """
    rehearsal = rehearse_golden(bundle)
    if rehearsal.failure or not bundle.manifest.budget:
        return rehearsal
    try:
        with _able():
            findings = _judged(bundle)
    except InstallationError:
        raise
    except EnginewrightError as error:
        return Rehearsal(error.message)
    return Rehearsal(_missed(findings), findings)


def _judged(bundle: Bundle) -> tuple[Finding, ...]:
    entry = fitting_engine(bundle)
    inputs = one_sample(read_golden(bundle).inputs, bundle.manifest.inputs)
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        path = Path(folder) / "engine"
        path.write_bytes(bundle.read(entry.path))
        engine = EngineToMeasure(path, entry.backend, entry.settings)
        measurement = measure({"engine": engine}, inputs, sessions=SESSIONS)
    size_bytes = bundle.manifest.files[entry.path].size
    return judge(bundle.manifest.budget, evidence_of(bundle.manifest, measurement, size_bytes=size_bytes))


def _missed(findings: Sequence[Finding]) -> str:
    if overall(findings) is not Verdict.FAIL:
        return ""
    return "; ".join(finding.sentence for finding in findings if finding.verdict is Verdict.FAIL)


@contextmanager
def _able() -> Iterator[None]:
    """No process, or no space for its files: that is no fault of the bundle, which must not be refused for it."""
    try:
        yield
    except OSError as error:
        raise InstallationError(f"the self-test cannot be run on this machine: {error}") from error
