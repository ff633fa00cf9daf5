"""What the gate says, for people and for CI: a table, Markdown, JUnit XML and annotations. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from enginewright.gate.result import Comparison, GateFinding, GateResult, shown
from enginewright_runtime.budget import Verdict
from enginewright_runtime.gpu import gpu_words

__all__ = ["gate_annotations", "gate_junit", "gate_markdown", "gate_text"]

_LEVELS = {Verdict.PASS: "notice", Verdict.FAIL: "error", Verdict.INCONCLUSIVE: "warning"}


def gate_text(result: GateResult) -> str:
    """The findings against each baseline, and the verdict with its reason on the last line."""
    lines = []
    for comparison in result.comparisons:
        lines += [f"{result.candidate} against {comparison.against}", ""]
        lines += [f"  {finding.verdict.value:<13} {finding.sentence}" for finding in comparison.findings]
        lines += ["", f"  {_taken(comparison)}", ""]
    lines += [f"note: {note}" for note in result.notes]
    lines.append(_how(result))
    lines.append(f"verdict: {result.verdict.value}: {result.reason}")
    return "\n".join(lines)


def gate_markdown(result: GateResult) -> str:
    """A job summary: one table a baseline."""
    lines = [f"## Gate: {result.verdict.value}", "", f"{_cell(result.reason)}.", ""]
    for comparison in result.comparisons:
        lines += [f"`{_cell(result.candidate)}` against `{_cell(comparison.against)}`: {comparison.verdict.value}", ""]
        lines += [
            "| metric | change | interval | fails beyond | passes within | verdict |",
            "|---|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(map(_cell, _row(finding)))} |" for finding in comparison.findings]
        lines += ["", f"{_taken(comparison)}.", ""]
    lines += [line for note in result.notes for line in (f"> {_cell(note)}", "")]
    lines += [f"{_how(result)}.", ""]
    return "\n".join(lines)


def gate_junit(result: GateResult) -> str:
    """A test case for each baseline and metric. FAIL is a failure; INCONCLUSIVE is skipped, for nothing was found."""
    findings = [(one, finding) for one in result.comparisons for finding in one.findings]
    counts = {verdict: sum(finding.verdict is verdict for _, finding in findings) for verdict in Verdict}
    suite = ElementTree.Element(
        "testsuite",
        name=f"enginewright gate {result.candidate}",
        tests=str(len(findings)),
        failures=str(counts[Verdict.FAIL]),
        errors="0",
        skipped=str(counts[Verdict.INCONCLUSIVE]),
        time=f"{result.seconds:.1f}",
    )
    for comparison, finding in findings:
        case = ElementTree.SubElement(suite, "testcase", classname=comparison.against, name=finding.metric)
        if finding.verdict is Verdict.FAIL:
            ElementTree.SubElement(case, "failure", message=finding.sentence)
        elif finding.verdict is Verdict.INCONCLUSIVE:
            ElementTree.SubElement(case, "skipped", message=f"{finding.verdict.value}: {finding.sentence}")
        else:
            ElementTree.SubElement(case, "system-out").text = finding.sentence
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def gate_annotations(result: GateResult) -> list[str]:
    """GitHub's workflow commands: one a baseline."""
    return [
        f"::{_LEVELS[one.verdict]} title=enginewright gate%3A {one.verdict.value}::"
        f"{_command(f'{result.candidate} against {one.against}: {one.reason}')}"
        for one in result.comparisons
    ]


def _row(finding: GateFinding) -> Sequence[str]:
    figures, limits = (finding.value, finding.low, finding.high), finding.limits
    if limits is None or None in figures:
        return (finding.metric, finding.sentence, "", "", "", finding.verdict.value)
    value, low, high, fail, passing = (
        shown(finding.metric, figure or 0.0) for figure in (*figures, limits.fail_beyond, limits.pass_within)
    )
    interval = "exact" if finding.low == finding.high else f"{low} to {high}"
    return (finding.metric, value, interval, fail, passing, finding.verdict.value)


def _taken(comparison: Comparison) -> str:
    if not comparison.sessions:
        return "no latency was measured against it"
    dropped = f", {comparison.dropped_share:.0%} of the rounds dropped" if comparison.dropped_share else ""
    return f"{comparison.sessions} sessions in fresh processes{dropped}"


def _how(result: GateResult) -> str:
    minutes, seconds = divmod(round(result.seconds), 60)
    gpu = f" and its {words}" if (words := gpu_words(result.host)) else ""
    return (
        f"profile {result.profile}, {result.samples} timed inferences of the candidate, {minutes} min {seconds} s, "
        f"on {result.host.get('cpu')} with {result.host.get('cores')} cores{gpu}"
    )


def _cell(text: str) -> str:
    """Text that cannot end a table's cell or begin a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _command(text: str) -> str:
    """Text in a workflow command, which ends at the end of a line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
