"""Draws accuracy against latency: what each way to compress a network costs, and what it gains.

    python benchmarks/frontier.py [POINT ...] [--target cpu] [--epochs 2] [--sessions 6] [--output dist/frontier]

A point is a recipe with values for its template: `signs` or `signs,macs=0.75,epochs=6` or `signs,quantize=false`.
Without any, the points are those of the recipes `signs` and, where it is there, `signs-max`: int8 alone, less and more
of the multiply-accumulates pruned (recovered for --epochs epochs), some of it without int8, and the recipes as they
are. What is not in the store yet is made by the steps of the build, which takes minutes for each point and up to
an hour for `signs-max`; a second run only measures.

Protocol: all engines, and the float network's, are measured in one run, batch 1, one thread, warm caches; every session
has a fresh process for each engine, warmed up until its median is steady, then 40 rounds in random order of 5 timed
inferences each, the first after a switch dropped. The median over the sessions of their medians and its range are
printed and drawn; accuracy is the built engine's on the whole test split, its change against float, with the 95 %
interval of the paired difference.

Writes OUTPUT.png, OUTPUT.svg and OUTPUT.json (what is drawn, as numbers), and the numbers once more for each recipe that
is drawn, where the next build finds them for its report. Drawing needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from frontier_drawing import Dot, draw
from side_by_side import Built, Spread, build_up_to, protocol_line, speed_up

from enginewright.build import prepare
from enginewright.plan import OutputOf
from enginewright.project import Project, find_project
from enginewright.template import SettingValue, parse_settings
from enginewright_runtime.measure import Measurement, measure

FLOAT = "float"
FORMAT = 2  # of the JSON. 1: the first; 2: reference_sha256.


@dataclass(frozen=True)
class Point:
    """A recipe with values for its template, and what it is called in the drawing."""

    label: str
    recipe: str
    settings: Mapping[str, SettingValue]


@dataclass(frozen=True)
class Result:
    """One point, measured: `latency_ms` is a session's p50; `change` is of accuracy, negative where some was lost."""

    label: str
    recipe: str
    settings: Mapping[str, SettingValue]
    int8: bool
    latency_ms: Spread
    wall: Spread
    cpu: Spread
    accuracy: float
    change: float
    interval: tuple[float, float] | None
    size_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="*", metavar="POINT")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("dist/frontier"))
    arguments = parser.parse_args()
    project = find_project(Path.cwd())
    points = [_asked(text) for text in arguments.points] or list(_usual(project, arguments.epochs))
    built: dict[str, Built] = {}
    for point in points:
        print(f"-- {point.label}", file=sys.stderr, flush=True)
        built[point.label] = build_up_to(
            prepare(project, point.recipe, arguments.target, settings=point.settings), "evaluate"
        )
    first = next(iter(built.values()))
    network = OutputOf("reference/simplify", "network")
    if any(item.path(network) != first.path(network) for item in built.values()):
        print("the points are of different float networks: draw them apart")
        return 1
    with np.load(first.path(OutputOf("evaluate", "golden"))) as golden:
        inputs = {name.removeprefix("input."): golden[name][:1] for name in golden.files if name.startswith("input.")}
    engines = {label: item.engine("compile") for label, item in built.items()}
    measured = measure(
        {FLOAT: first.engine("reference/compile"), **engines},
        inputs,
        sessions=arguments.sessions,
        seed=1,
        on_progress=lambda done, total: print(f"session {done} of {total}", file=sys.stderr, flush=True),
    )
    results = [_result(point, built[point.label], measured) for point in points]
    reference = _latency_ms(measured, FLOAT)
    protocol = protocol_line(measured)
    _print_table(results, reference, first.json(OutputOf("reference/evaluate", "evaluation"))["accuracy"])
    print(protocol)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "protocol": protocol,
        "reference_sha256": measured.engines[FLOAT].sha256,
        "reference_ms": asdict(reference),
        "points": [asdict(result) for result in results],
    }
    text = json.dumps(content, indent=1) + "\n"
    arguments.output.with_suffix(".json").write_text(text)
    for recipe in {point.recipe for point in points}:
        project.frontier(recipe, arguments.target).write_text(text)
    try:
        files = draw([_dot(result) for result in results], reference, protocol, arguments.output)
    except ImportError:
        print(f"no drawing: pip install matplotlib. The numbers are in {arguments.output.with_suffix('.json')}")
        return 0
    print("wrote", ", ".join(str(path) for path in (*files, arguments.output.with_suffix(".json"))))
    return 0


def _asked(text: str) -> Point:
    recipe, *assignments = text.split(",")
    return Point(text, recipe, parse_settings(assignments))


def _usual(project: Project, epochs: int) -> Iterator[Point]:
    yield Point("int8 alone", "signs", {"macs": 0})
    for macs in (0.3, 0.75):
        yield Point(f"{macs:.0%} pruned, int8", "signs", {"macs": macs, "epochs": epochs})
    yield Point("75% pruned, float", "signs", {"macs": 0.75, "epochs": epochs, "quantize": False})
    yield Point("recipe signs, float", "signs", {"quantize": False})
    for recipe in ("signs", "signs-max"):
        if recipe in project.recipe_names():
            yield Point(f"recipe {recipe}", recipe, {})


def _latency_ms(measured: Measurement, label: str) -> Spread:
    return Spread.of([statistics.median(session) / 1e6 for session in measured.sessions_ns(label)])


def _result(point: Point, built: Built, measured: Measurement) -> Result:
    evaluation = built.json(OutputOf("evaluate", "evaluation"))
    reference = built.json(OutputOf("reference/evaluate", "evaluation"))
    layers = built.json(OutputOf(built.job.plan.step("compile").inputs["network"].step, "layers"))
    changed = evaluation["changed"]  # None where the metric does not weigh samples alike
    return Result(
        label=point.label,
        recipe=point.recipe,
        settings=point.settings,
        int8=any(layer["precision"] == "int8" for layer in layers["layers"]),
        latency_ms=_latency_ms(measured, point.label),
        wall=speed_up(measured, point.label, reference=FLOAT, clock="samples_ns"),
        cpu=speed_up(measured, point.label, reference=FLOAT, clock="cpu_ns"),
        accuracy=evaluation["accuracy"],
        change=evaluation["accuracy"] - reference["accuracy"],
        interval=(-changed["interval"][1], -changed["interval"][0]) if changed else None,
        size_bytes=measured.engines[point.label].size_bytes,
    )


def _dot(result: Result) -> Dot:
    low, high = result.interval or (result.change, result.change)
    points = Spread(100 * result.change, 100 * low, 100 * high)
    return Dot(result.label, result.latency_ms, points, filled=result.int8)


def _print_table(results: Sequence[Result], reference: Spread, accuracy: float) -> None:
    rows = [["what", "p50 ms", "times faster, wall", "times faster, CPU", "accuracy", "change, points", "MiB"]]
    rows.append([FLOAT, f"{reference.median:.3f}", "", "", f"{accuracy:.2%}", "", ""])
    for item in sorted(results, key=lambda result: -result.latency_ms.median):
        change = f"{100 * item.change:+.2f}"
        if item.interval:
            change += f" ({100 * item.interval[0]:+.2f} to {100 * item.interval[1]:+.2f})"
        size = f"{item.size_bytes / 2**20:.2f}"
        row = [item.label, f"{item.latency_ms.median:.3f}", str(item.wall), str(item.cpu), f"{item.accuracy:.2%}"]
        rows.append([*row, change, size])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


if __name__ == "__main__":
    sys.exit(main())
