"""The top of a report: the verdict in one sentence, the table of reference against engine, and the budget's findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

from enginewright.report.accuracy import FIDELITY, TOP1
from enginewright.report.data import Evaluation, Latency, Network, ReportData
from enginewright.report.latency import PercentileRow, percentile_rows, session_ratios, sessions_disagree
from enginewright.units import (
    NONE,
    count,
    decibels,
    file_size,
    milliseconds,
    percent,
    points,
    signed_points,
    significant,
    times,
)
from enginewright_runtime.budget import Finding, Verdict

Trend: TypeAlias = Literal["better", "worse", "same", ""]

_NOTEWORTHY = 0.01  # a ratio within one percent of 1 is called the same

INCONCLUSIVE_MEANS = (
    "is neither a pass nor a failure: what was measured is compatible with the limit being kept and with its being missed, "
    "most often because there were too few samples or the machine was busy. Measure again on a quiet machine, or take more sessions."
)


@dataclass(frozen=True)
class Figure:
    """A figure and, smaller beside it, its interval or the reason why it is missing."""

    text: str = NONE
    note: str = ""


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the table at the top.

    `trend` says whether the engine is better than the reference; it is empty where that has no sense.
    """

    name: str
    reference: Figure
    engine: Figure
    change: Figure
    trend: Trend = ""


@dataclass(frozen=True)
class BudgetRow:
    """One finding, in the unit of its budget."""

    name: str
    value: str
    limit: str
    finding: Finding


def comparison(data: ReportData) -> tuple[ComparisonRow, ...]:
    """Reference against engine, one row a figure; figures that neither side has are left out."""
    rows = [*_accuracy_rows(data)]
    if data.latency is not None:
        rows += [latency_row(row, data.latency) for row in percentile_rows(data.latency) if row.percent in (50, 99)]
    rows += _size_rows(data.reference, data.engine, compiled=data.pending is None)
    return tuple(rows)


def verdict_sentence(data: ReportData) -> str:
    """What the verdict is and what it was bought with, in one sentence.

    The verdict itself stands beside it and is not repeated.
    """
    return f"{verdict_clause(data.verdict, data.findings)}{_gains(data)}."


def verdict_clause(verdict: Verdict, findings: tuple[Finding, ...]) -> str:
    """What the verdict says of the budgets, as the beginning of a sentence."""
    return _VERDICT_CLAUSE[verdict](findings)


def budget_rows(findings: Sequence[Finding]) -> tuple[BudgetRow, ...]:
    return tuple(
        BudgetRow(
            budget_name(finding.name),
            NONE if finding.value is None else budget_figure(finding.name, finding.value),
            budget_figure(finding.name, finding.limit),
            finding,
        )
        for finding in findings
    )


def metric_name(metric: str) -> str:
    """A metric as words; one of the recipe's own stands as it is.

    >>> metric_name("top1"), metric_name("metric:MeanIoU")
    ('Accuracy (top 1)', 'metric:MeanIoU')
    """
    return _METRIC_NAMES.get(metric, metric)


def budget_name(name: str) -> str:
    """A budget's key as words; a key that is not known here stands as it is.

    >>> budget_name("latency_p99_ms")
    'p99 latency'
    """
    return _BUDGET_NAMES.get(name, name)


def budget_figure(name: str, value: float) -> str:
    """A budget's limit or value with the unit that its key ends in.

    >>> budget_figure("latency_p99_ms", 4.0), budget_figure("size_mib", 1.153), budget_figure("accuracy_drop", 0.01)
    ('4.00 ms', '1.15 MiB', '1.00 points')
    """
    if name == "accuracy_drop":
        return f"{significant(value * 100)} points"
    for suffix, unit in (("_ms", "ms"), ("_mib", "MiB")):
        if name.endswith(suffix):
            return f"{significant(value)} {unit}"
    return significant(value)


_BUDGET_NAMES = {
    "latency_p50_ms": "p50 latency",
    "latency_p99_ms": "p99 latency",
    "size_mib": "size",
    "memory_mib": "memory",
    "accuracy_drop": "accuracy drop",
}


def _within(findings: tuple[Finding, ...]) -> str:
    if not findings:
        return "No budget was set, so nothing was judged"
    return f"The engine keeps within {_which(findings, Verdict.PASS)}"


def _beyond(findings: tuple[Finding, ...]) -> str:
    return f"The engine misses {_which(findings, Verdict.FAIL)}"


def _undecided(findings: tuple[Finding, ...]) -> str:
    return f"What was measured leaves {_which(findings, Verdict.INCONCLUSIVE)} open"


def _pending(findings: tuple[Finding, ...]) -> str:
    del findings
    return "The engine waits for its device; what was evaluated here is its twin, the same network under ONNX Runtime"


_VERDICT_CLAUSE: dict[Verdict, Callable[[tuple[Finding, ...]], str]] = {
    Verdict.PASS: _within,
    Verdict.FAIL: _beyond,
    Verdict.INCONCLUSIVE: _undecided,
    Verdict.PENDING: _pending,
}


def _which(findings: tuple[Finding, ...], verdict: Verdict) -> str:
    """The budgets with this verdict, counted, and named unless they are all of several."""
    names = [budget_name(finding.name) for finding in findings if finding.verdict is verdict]
    if len(findings) == 1:
        return f"the budget of {names[0]}"
    if len(names) == len(findings):
        return "both budgets" if len(names) == 2 else f"all {len(names)} budgets"
    return f"{len(names)} of {len(findings)} budgets ({', '.join(names)})"


def _gains(data: ReportData) -> str:
    """Speed, size and accuracy as the second half of the sentence, as far as they are known."""
    parts = []
    for row in comparison(data):
        if row.name in _GAINS and row.trend:
            parts.append(_GAINS[row.name] if row.trend == "same" else row.change.text)
            if row.name == _MEDIAN:
                parts[-1] += " at the median with warm caches"
    evaluation = data.engine.evaluation
    change = accuracy_change(data.reference.evaluation, evaluation)
    if data.metric != FIDELITY and change is not None:
        parts.append(_accuracy_words(change))
    elif evaluation and evaluation.agreement is not None:
        parts.append(f"in agreement with it on {percent(evaluation.agreement)} of the test samples")
    if not parts:
        return ""
    listed = f"{', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"
    return f"; against the reference the engine is {listed}"


def _accuracy_words(change: float) -> str:
    if round(change, 4) == 0:
        return "as accurate"
    return f"{abs(change) * 100:.2f} points {'more' if change > 0 else 'less'} accurate"


def _accuracy_rows(data: ReportData) -> list[ComparisonRow]:
    before, after = data.reference.evaluation, data.engine.evaluation
    rows = []
    if (metric := data.metric) not in ("", FIDELITY):
        rows.append(
            ComparisonRow(
                metric_name(metric), accuracy_of(before), accuracy_of(after), *_accuracy_figure(before, after)
            )
        )
    if after is not None and after.agreement is not None:
        interval = _interval(after) if metric == FIDELITY else ""
        rows.append(ComparisonRow("Agreement", Figure(), Figure(percent(after.agreement), interval), Figure()))
    for noise in after.signal_to_noise if after else ():
        rows.append(
            ComparisonRow(f"Signal to noise, {noise.output}", Figure(), Figure(decibels(noise.ratio_db)), Figure())
        )
    return rows


def _size_rows(before: Network, after: Network, *, compiled: bool) -> list[ComparisonRow]:
    """Size, weights, MACs and memory; both sides of a row in the same unit. `compiled`: there are engines with a size."""
    rows = []
    if compiled and (before.size_bytes or after.size_bytes):
        written = partial(file_size, like=max(before.size_bytes, after.size_bytes))
        rows.append(ratio_row("Size", before.size_bytes, after.size_bytes, written, less="smaller", more="larger"))
    for name, was, now in (("Weights", before.weights, after.weights), ("MACs", before.macs, after.macs)):
        if was or now:
            rows.append(ratio_row(name, was, now, partial(count, like=max(was, now)), less="fewer", more="more"))
    was_held, now_held = before.peak_memory_bytes, after.peak_memory_bytes
    if was_held and now_held:
        written = partial(file_size, like=max(was_held, now_held))
        rows.append(ratio_row("Peak memory", was_held, now_held, written, less="less", more="more"))
    return rows


def latency_row(row: PercentileRow, latency: Latency) -> ComparisonRow:
    """A percentile of both sides; the median with its ratio by session."""
    if row.missing:
        return ComparisonRow(f"{row.name} latency", Figure(), Figure(), Figure(NONE, row.missing))
    change, trend = change_of(row.ratio, less="faster", more="slower")
    before, after = (
        Figure(NONE if value is None else milliseconds(value)) for value in (row.reference_ns, row.engine_ns)
    )
    written = ComparisonRow(f"{row.name} latency", before, after, Figure(change), trend)
    ratios = session_ratios(latency) if row.percent == 50 else ()
    if len(ratios) < 2:
        return written
    note = f"ratio by session {times(min(ratios))} to {times(max(ratios))}"
    return replace(
        written,
        change=replace(written.change, note=note),
        trend="same" if sessions_disagree(ratios) else written.trend,
    )


_MEDIAN = "p50 latency"
_GAINS = {
    _MEDIAN: "as fast",
    "Size": "as large",
}  # the rows that the verdict's sentence repeats, and the words for no change
_METRIC_NAMES = {TOP1: "Accuracy (top 1)", "balanced_accuracy": "Balanced accuracy", FIDELITY: "Agreement"}


def accuracy_of(evaluation: Evaluation | None) -> Figure:
    if evaluation is None or evaluation.accuracy is None:
        return Figure()
    return Figure(percent(evaluation.accuracy), _interval(evaluation))


def _interval(evaluation: Evaluation) -> str:
    if evaluation.interval is None:
        return ""
    low, high = evaluation.interval
    return f"{low * 100:.2f} to {high * 100:.2f}"


def _accuracy_figure(before: Evaluation | None, after: Evaluation | None) -> tuple[Figure, Trend]:
    """The change of the metric, with its interval where it was counted sample by sample; "same" while that holds zero."""
    change = accuracy_change(before, after)
    if change is None:
        return Figure(), ""
    if after is None or after.changed is None or after.metric != TOP1:
        return Figure(points(change)), ""
    low, high = (-bound for bound in reversed(after.changed.interval))
    trend: Trend = "better" if low > 0 else "worse" if high < 0 else "same"
    return Figure(points(change), f"{signed_points(low)} to {signed_points(high)}"), trend


def accuracy_change(before: Evaluation | None, after: Evaluation | None) -> float | None:
    """What the metric gained, as a share; None where a side has no figure."""
    if before is None or after is None or before.accuracy is None or after.accuracy is None:
        return None
    return after.accuracy - before.accuracy


def ratio_row(
    name: str, before: float | None, after: float | None, written: Callable[[float], str], *, less: str, more: str
) -> ComparisonRow:
    """A row for a figure of which less is better; `less` and `more` are the words for it."""
    change, trend = change_of(before / after if before and after else None, less=less, more=more)
    reference, engine = (Figure(NONE if value is None else written(value)) for value in (before, after))
    return ComparisonRow(name, reference, engine, Figure(change), trend)


def change_of(ratio: float | None, *, less: str, more: str) -> tuple[str, Trend]:
    """A ratio of before to after in words, and whether it is good."""
    if not ratio:
        return NONE, ""
    if abs(ratio - 1.0) < _NOTEWORTHY:
        return "the same", "same"
    return (f"{times(ratio)} {less}", "better") if ratio > 1.0 else (f"{times(1.0 / ratio)} {more}", "worse")
