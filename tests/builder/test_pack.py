"""What packing takes from the compress steps, and what it says of them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.builder.lone_stage import LoneStage, Ran
from tests.builder.report.finished_bundle import measured
from tests.runtime.tensorrt.conftest import install as install
from tests.runtime.tensorrt.networks import product
from tests.tiny_project import TINY, Finished, TinyProject

from enginewright.compression import CompressStep, Distill, Prune, PruneBlocks, Quantize, Recover, Student
from enginewright.plan import HostFacts, OutputOf, make_plan
from enginewright.recipe import load_recipe
from enginewright.record import Ingredients, Record
from enginewright.report import render_html
from enginewright.report.bundle_report import report_of_bundle
from enginewright.results import compression_of, precision_of
from enginewright.sources import Source, Sources
from enginewright.stages import measure
from enginewright.target import Target
from enginewright_runtime.backends import backend
from enginewright_runtime.budget import Verdict
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.golden import Golden
from enginewright_runtime.gpu import fingerprint_for
from enginewright_runtime.host import fingerprint_id

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


def test_the_report_of_a_bundle_is_the_page_that_it_was_packed_with(first_build: tuple[TinyProject, Finished]) -> None:
    """Its latencies come from the bundle's measurements, and the rest from what the build stored."""
    project, _ = first_build
    bundle = read_bundle(project.root / "dist" / "tiny-cpu.ewb")
    assert render_html(report_of_bundle(bundle)).encode() == bundle.read("report.html")


class TestTensorRT:
    """On a computer that has the GPU itself; with a fake TensorRT, of which the measuring processes know nothing."""

    @pytest.fixture
    def engine(self, tmp_path: Path, install: Any) -> dict[str, Path]:
        """An engine of a network with a pair, as `compile` leaves it, and its golden inputs."""
        install("10.3.0", layers=LAYERS, distributions={"enginewright": "0.1.0"})
        settings: Any = {"sizes": {"batch": [1, 1, 4]}}
        chosen = backend("tensorrt")
        requires = chosen.requires(settings)
        entry = {"fingerprint": chosen.fingerprint(requires), "backend": "tensorrt", "settings": settings}
        x = np.array([[1, 2, 3, 4], [-1, 0, 0, 1]], np.float32)
        with closing(chosen.open(chosen.compile(product(quantized=True), settings), settings)) as opened:
            golden = Golden({"x": x}, opened.run({"x": x}), {"y": np.array(1e-4, np.float32)})
        files = {
            "engine": chosen.compile(product(quantized=True), settings),
            "entry": json.dumps({**entry, "requires": requires}).encode(),
            "golden": golden.to_bytes(),
            "network": product(quantized=True),
        }
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return {name: tmp_path / name for name in files}

    def test_measuring_times_the_layers(
        self, engine: dict[str, Path], lone: LoneStage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = run_measure(lone, engine, monkeypatch)
        told = json.loads(ran.output("engine_layers").read_bytes())
        assert [(layer["nodes"], layer["time_ns"]) for layer in told["layers"]] == [
            (["x/quantize"], 100_000),
            ([], 50_000),
            (["x/dequantize", "product", "rectify"], 250_000),
        ]
        assert told["runs"] == 50

    def test_the_layers_reach_the_report_and_the_bundle(
        self, engine: dict[str, Path], lone: LoneStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        ran = run_measure(lone, engine, monkeypatch)
        evaluation = {"format": 1, "metric": "top1", "samples": 2, "accuracy": 1.0, "confidence": 0.95}
        asked = {"name": "product", "op": "MatMul", "macs": 12, "weights": 12, "weight_bytes": 12}
        layers = {"format": 1, "layers": [{**asked, "output_shape": ["batch", 3], "precision": "int8"}]}
        (tmp_path / "evaluation").write_text(json.dumps(evaluation))
        (tmp_path / "layers").write_text(json.dumps(layers))
        both = {name: tmp_path / name for name in ("evaluation", "layers")}
        measured = {name: ran.output(name) for name in ("measurement", "measurement_evicted", "engine_layers")}
        parameters = {"name": "tiny", "summary": "", "sequence": 0, "target": "l4", "target_summary": "", "recipe": ""}
        packed = lone.run(
            "pack",
            {**parameters, "budget": {}, "looks": [1]},
            **engine,
            **both,
            **{f"reference_{name}": path for name, path in both.items()},
            **measured,
            reference_engine=engine["engine"],
        )
        page = packed.output("report_html").read_text(encoding="utf-8")
        assert "What the compiler made of the network" in page
        assert "Computed in another precision, though the network's Q/DQ pairs ask for int8: product." in html.unescape(
            page
        )
        bundle = read_bundle(packed.output("bundle"))
        [entry] = bundle.manifest.engines
        assert bundle.read(f"engines/{entry.fingerprint}/layers.json") == ran.output("engine_layers").read_bytes()
        assert render_html(report_of_bundle(bundle)) == page


LAYERS = {
    "x/quantize": [
        {
            "Name": "x/quantize",
            "LayerType": "Scale",
            "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
            "Metadata": "[ONNX Layer: x/quantize]",
            "ms": 0.1,
        },
        {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "ms": 0.05},
        {
            "Name": "product + rectify",
            "LayerType": "gemm",
            "Inputs": [{"Format/Datatype": "Half"}],
            "Metadata": "[ONNX Layer: x/dequantize]\x1e[ONNX Layer: product]\x1e[ONNX Layer: rectify]",
            "ms": 0.25,
        },
    ]
}


def run_measure(lone: LoneStage, engine: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Ran:
    """The stage with measurements that nobody took."""
    warm = measured("reference", "engine")
    evicted = replace(warm, protocol=replace(warm.protocol, caches="evicted", evicted_bytes=1))
    monkeypatch.setattr(measure, "_with_warm_caches", lambda *given: (warm, Verdict.PASS))
    monkeypatch.setattr(measure, "_with_evicted_caches", lambda *given: evicted)
    reference = {"reference_engine": engine["engine"], "reference_entry": engine["entry"]}
    return lone.run("measure", {"host": fingerprint_id(fingerprint_for(["tensorrt"]))}, **engine, **reference)
