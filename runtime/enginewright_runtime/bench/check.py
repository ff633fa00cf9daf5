"""Whether a bundle keeps its promises on this machine: its golden outputs, and its budgets by enough samples to say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.latency import finding_lines, measurement_json, measurement_lines
from enginewright_runtime.bench.subject import Subject
from enginewright_runtime.budget import Finding, Verdict, judge, overall
from enginewright_runtime.canonical import Json
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.golden import OutputAgreement, read_golden
from enginewright_runtime.measure import Measuring
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.session import open_bundle

# Twice as many sessions from look to look: a budget that is far from what the engine does is decided at the first one,
# and the risk is split among few.
LOOKS = (4, 8, 16, 32)
_ROUNDS, _CHUNK = 40, 5


@dataclass(frozen=True)
class Checked:
    """What a check found. `measurement` is None, and `findings` are empty, where the outputs were wrong already."""

    agreements: Sequence[OutputAgreement]
    findings: Sequence[Finding]
    measurement: Measurement | None
    elapsed_ns: int

    @property
    def verdict(self) -> Verdict:
        """FAIL where an output is wrong or a budget is missed, INCONCLUSIVE where a budget stays open, else PASS."""
        if not all(output.agrees for output in self.agreements):
            return Verdict.FAIL
        return overall(self.findings)


def check(
    checked: Subject,
    *,
    max_seconds: float,
    rounds: int = _ROUNDS,
    looks: Sequence[int] = LOOKS,
    on_progress: Callable[[int, int, Sequence[Finding]], None] | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> Checked:
    """Compare the golden outputs, then measure until every budget is decided.

    Budgets are judged after each number of sessions in `looks`, which share the risk, and once more when
    `max_seconds` are over, in place of the look that was next. A session that has begun is finished.
    `on_progress`: sessions done, sessions at most, and the last findings.
    """
    begin = clock_ns()
    bundle = checked.bundle
    golden = read_golden(bundle)
    with open_bundle(bundle) as session:
        agreements = golden.compare(session.run(golden.inputs))
    if not all(output.agrees for output in agreements):
        return Checked(agreements, (), None, clock_ns() - begin)
    findings: Sequence[Finding] = ()
    size_bytes = bundle.manifest.files[checked.entry.path].size
    with Measuring({"engine": checked.engine}, checked.inputs, rounds=rounds, chunk=_CHUNK, seed=0) as measuring:
        for done in range(1, looks[-1] + 1):
            measuring.take_session()
            out_of_time = clock_ns() - begin >= max_seconds * 1e9
            if done in looks or out_of_time:
                evidence = evidence_of(bundle.manifest, measuring.measurement(), size_bytes=size_bytes)
                findings = judge(bundle.manifest.budget, replace(evidence, looks=len(looks)))
            if on_progress:
                on_progress(done, looks[-1], findings)
            if out_of_time or (done in looks and not _more_would_help(findings)):
                break
        return Checked(agreements, findings, measuring.measurement(), clock_ns() - begin)


def check_answer(checked: Subject, found: Checked, *, max_seconds: float) -> Answer:
    """The answer of the command `check`."""
    seconds = found.elapsed_ns / 1e9
    lines = [agreement_line(output) for output in found.agreements]
    json: dict[str, Json] = {}
    if found.measurement is not None:
        measured = (checked.bundle, checked.entry, found.measurement)
        json = measurement_json(*measured, found.findings)
        lines = [*measurement_lines(*measured), *lines, *finding_lines(found.findings)]
    lines.append(f"verdict: {found.verdict.value}{_why(found, seconds, max_seconds)}")
    return Answer(
        found.verdict.exit_code,
        {
            **json,
            **checked.identity(),
            "verdict": found.verdict.value,
            "outputs_agree": all(output.agrees for output in found.agreements),
            "seconds": seconds,
        },
        lines,
    )


def _more_would_help(findings: Sequence[Finding]) -> bool:
    """Whether more latencies could change the verdict: none is missed, and one of theirs is open."""
    undecided = [finding for finding in findings if finding.verdict is Verdict.INCONCLUSIVE]
    return overall(findings) is not Verdict.FAIL and any(one.name.startswith("latency_") for one in undecided)


def _why(found: Checked, seconds: float, max_seconds: float) -> str:
    if found.measurement is None:
        return ", the golden outputs differ: nothing was measured"
    taken = f"after {len(found.measurement.sessions)} sessions, {seconds:.0f} s"
    if not found.findings:
        return f" {taken}, for the bundle demands nothing"
    if found.verdict is Verdict.INCONCLUSIVE:
        return f" {taken} of at most {max_seconds:g} s: the samples do not decide it"
    return f" {taken}"


def agreement_line(output: OutputAgreement) -> str:
    """How one output compares with the golden one."""
    word = "agrees with" if output.agrees else "DIFFERS from"
    return (
        f"  {output.name} {word} the golden output: off by {output.largest_difference:.3g} at most, "
        f"{output.tolerance:.3g} allowed"
    )
