"""What packing takes from the compress steps, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.tiny_project import TINY, Finished, TinyProject

from enginewright.compression import CompressStep, Distill, Prune, PruneBlocks, Quantize, Recover, Student
from enginewright.plan import HostFacts, OutputOf, make_plan
from enginewright.recipe import load_recipe
from enginewright.record import Ingredients, Record
from enginewright.results import compression_of, precision_of
from enginewright.sources import Source, Sources
from enginewright.target import Target

CPU = Target(target=1, name="cpu", backend="onnxruntime", build="here", threads=2)
RECOVER = Recover(epochs=1, learning_rate=0.001)
QUANTIZE = Quantize(keep_float=())


def packed(*compress: CompressStep) -> Mapping[str, OutputOf]:
    """The inputs of `pack` for a recipe with these compress steps."""
    recipe = load_recipe(TINY / "tiny.yaml", target=CPU, settings={}, environment={})
    sources = Sources({"code/data.py": Source("c" * 64, "data.py")}, {"weights": Source("a" * 64, "w")}, {})
    host = HostFacts("onnxruntime-x86-vnni", {"onnxruntime": "1.31.1"}, "float32", "f" * 64)
    return make_plan(replace(recipe, compress=compress), CPU, sources=sources, host=host).step("pack").inputs


def test_the_curves_of_every_training_are_packed_in_order() -> None:
    student = Student(factory="student:Net", epochs=1, learning_rate=0.001, distill=Distill())
    inputs = packed(student, Prune(macs=0.5, rounds=3, between=RECOVER), RECOVER)
    curves = {name: found.step for name, found in inputs.items() if found.output == "curve"}
    assert curves == {"curve-1": "distill", "curve-2": "recover", "curve-3": "recover-2", "curve-4": "recover-3"}


def test_the_blocks_of_the_last_removal_are_packed() -> None:
    inputs = packed(PruneBlocks(blocks=1), RECOVER, PruneBlocks(latency=0.1))
    assert inputs["blocks"] == OutputOf("prune_blocks-2", "blocks")


@pytest.mark.parametrize(
    ("compress", "there"), [((), set()), ((QUANTIZE,), {"scales"}), ((Quantize(),), {"scales", "precision"})]
)
def test_what_no_step_decided_is_not_packed(compress: tuple[CompressStep, ...], there: set[str]) -> None:
    assert {"precision", "blocks", "scales", "curve-1"} & set(packed(*compress)) == there


def test_a_curve_goes_by_the_name_of_the_step_that_trained(tmp_path: Path) -> None:
    """The eleventh comes after the tenth, whatever the order of the inputs."""
    names = [f"recover-{number}" for number in range(1, 12)]
    for number in range(1, 12):
        (tmp_path / f"curve-{number}").write_text(json.dumps([number]))
    history = [Record(name, Ingredients("recover", 1, {}), {}, 1.0) for name in names]
    history.insert(5, Record("prune", Ingredients("prune", 1, {}), {}, 1.0))
    inputs = {path.name: path for path in sorted(tmp_path.iterdir())}
    step: Any = SimpleNamespace(inputs=inputs, history=tuple(history))
    found = compression_of(step)
    assert found.curves == {f"recover-{number}": [number] for number in range(1, 12)}
    assert (found.precision, found.blocks, found.scales) == (None, None, None)


def test_the_result_says_how_many_layers_stay_float() -> None:
    table = {"chosen": "mixed", "time": "measured", "kept_float": ["b"], "layers": [{"name": "a"}, {"name": "b"}]}
    assert precision_of(table) == {"chosen": "mixed", "time": "measured", "float_layers": 1, "layers": 2}
    assert precision_of(None) is None


def test_the_report_and_the_output_of_a_build_say_what_compression_decided(
    first_build: tuple[TinyProject, Finished],
) -> None:
    project, finished = first_build
    text = (project.root / "dist" / "tiny-cpu.md").read_text(encoding="utf-8")
    decided = text[text.index("## Compression") : text.index("## Layers")]
    assert "### Precision" in decided
    assert "| recover | " in decided
    precision = finished.json["precision"]
    assert f"{precision['layers']} layers that can compute in int8" in decided
    assert precision["time"] == "measured"
    assert finished.json["times_faster"]["evicted"] == pytest.approx(
        finished.json["latency_evicted_ns"]["reference"]["p50"] / finished.json["latency_evicted_ns"]["engine"]["p50"]
    )
