"""What commands print of a plan and of a build: short tables for people, plain data for machines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginewright.build import BuildResult, Job
from enginewright.freshness import Freshness

__all__ = ["build_json", "build_table", "plan_json", "plan_table", "why_text"]

_MIB = 2**20


def build_json(result: BuildResult) -> dict[str, Any]:
    """The object that `enginewright build --json` prints."""
    content = result.result
    return {
        "bundle": str(result.deliveries["bundle"]),
        "report": str(result.deliveries["report_html"]),
        "verdict": content["verdict"],
        "findings": content["findings"],
        "steps": [
            {"name": step.name, "key": step.record.key, "status": step.status, "seconds": step.record.seconds}
            for step in result.steps
        ],
        "accuracy": content["accuracy"],
        "latency_ns": content["latency_ns"],
        "latency_evicted_ns": content["latency_evicted_ns"],
        "times_faster": content["times_faster"],
        "precision": content["precision"],
        "pending": content["pending"],
        "size_bytes": content["size_bytes"],
        "macs": content["macs"],
        "warnings": [f"{step.name}: {text}" for step in result.steps for text in step.record.warnings],
    }


def build_table(job: Job, result: BuildResult) -> str:
    """Reference against engine, the findings of the budget, the verdict and the paths."""
    content = result.result
    rows = [("", "reference", "engine", "")]
    accuracy = content["accuracy"]
    change = (accuracy["engine"] - accuracy["reference"]) * 100
    rows.append(
        (
            f"accuracy ({accuracy['metric']})",
            f"{accuracy['reference']:.2%}",
            f"{accuracy['engine']:.2%}",
            f"{change:+.2f} points",
        )
    )
    rows += _latency_rows(content)
    if None not in content["size_bytes"].values():
        rows.append(_ratio_row("size", content["size_bytes"], _MIB, "MiB", ("smaller", "larger")))
    rows.append(_ratio_row("MACs", content["macs"], 1e6, "M", ("fewer", "more")))
    rows += _precision_rows(content["precision"])
    reused = sum(step.status == "reused" for step in result.steps)
    built = len(result.steps) - reused
    lines = [
        f"{job.recipe.name} for {job.target.name}: {built} step{'' if built == 1 else 's'} built, {reused} reused",
        "",
        *_table(rows),
        "",
    ]
    if content["findings"]:
        lines += [f"  {finding['verdict']:<13} {finding['sentence']}" for finding in content["findings"]]
    else:
        lines.append("  no budget is set: nothing to judge")
    lines += [f"verdict: {content['verdict']}{_MEANING.get(content['verdict'], '')}"]
    lines += _pending_lines(content["pending"])
    lines += [f"  warning: {step.name}: {text}" for step in result.steps for text in step.record.warnings]
    lines += ["", *(str(path) for path in result.deliveries.values())]
    return "\n".join(lines)


_MEANING = {
    "PENDING": " (accuracy is that of the twin under ONNX Runtime; nothing was measured on the device)",
    "INCONCLUSIVE": " (the samples decide neither way: this machine is noisy, or the budget close; --strict makes this exit 4)",
}


def plan_json(found: Sequence[Freshness]) -> dict[str, Any]:
    """The object that `enginewright plan --json` and `why --json` print."""
    return {
        "steps": [
            {
                "name": item.step.name,
                "stage": item.step.stage,
                "key": item.ingredients.key if item.ingredients else None,
                "status": item.status,
                "reasons": list(item.reasons),
            }
            for item in found
        ]
    }


def plan_table(found: Sequence[Freshness]) -> str:
    """One line a step: its status, the time that it took or the first reason why it will run."""
    lines = []
    for item in found:
        more = f" (and {len(item.reasons) - 1} more: enginewright why)" if len(item.reasons) > 1 else ""
        detail = f"took {item.record.seconds:.1f} s" if item.record else f"{item.reasons[0]}{more}"
        lines.append(f"{item.step.name:<22} {item.status:<8} {detail}")
    return "\n".join(lines)


def why_text(found: Sequence[Freshness]) -> str:
    """Every reason of every step that would run."""
    stale = [item for item in found if item.record is None]
    if not stale:
        return "nothing changed: every step is reused"
    lines = []
    for item in stale:
        lines.append(f"{item.step.name}:")
        lines += [f"  {reason}" for reason in item.reasons]
    return "\n".join(lines)


def _latency_rows(content: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, latencies, percentile in (
        ("latency p50", content["latency_ns"], "p50"),
        ("latency p50, evicted", content["latency_evicted_ns"], "p50"),
        ("latency p99", content["latency_ns"], "p99"),
    ):
        old, new = (latencies[side][percentile] for side in ("reference", "engine"))
        if old is not None and new is not None:
            # The ratio of two p99 is mostly noise: it is not printed.
            ratio = _ratio(old, new, "faster", "slower") if percentile == "p50" else ""
            rows.append((name, f"{old / 1e6:.3f} ms", f"{new / 1e6:.3f} ms", ratio))
    return rows


def _pending_lines(pending: Mapping[str, Any] | None) -> list[str]:
    """Why the engine is not measured, the floor, and the one command that finishes it."""
    if pending is None:
        return []
    lines = [f"  not run here: {pending['reason']}"]
    lines.append(f"  structure: {'built by ' + pending['checked_by'] if pending['checked_by'] else 'not checked'}")
    if pending["floor_ns"] is not None:
        lines.append(f"  roofline floor of all layers, not measured: {pending['floor_ns'] / 1e6:.4f} ms")
    return [*lines, f"  on the device: {pending['command']}"]


def _precision_rows(precision: Mapping[str, Any] | None) -> list[tuple[str, str, str, str]]:
    """Nothing where the recipe left no choice."""
    if precision is None:
        return []
    kept = f"{precision['float_layers']} of {precision['layers']} layers in float"
    return [("precision", "float", precision["chosen"], kept)]


def _ratio_row(
    word: str, pair: Mapping[str, float], unit: float, name: str, comparison: tuple[str, str]
) -> tuple[str, str, str, str]:
    old, new = pair["reference"], pair["engine"]
    return (word, f"{old / unit:.2f} {name}", f"{new / unit:.2f} {name}", _ratio(old, new, *comparison))


def _ratio(old: float, new: float, better: str, worse: str) -> str:
    if old == new:
        return "unchanged"
    if not old or not new:
        return ""
    return f"{old / new:.2f} times {better}" if new < old else f"{new / old:.2f} times {worse}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
