"""Precision is assigned by what is measured: times are scripted here, the accuracy is that of real engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.builder.lone_stage import DATA, LoneStage, Ran, Samples, model_of

from enginewright.errors import StepFailed
from enginewright.graph.ranges import calibrate
from enginewright.stages import assign_precision
from enginewright_runtime.host import fingerprint, fingerprint_id

LAYERS = ("first", "second", "third")
Kept = frozenset[str]
Script = Callable[[Kept], int]  # the nanoseconds of an inference, by the layers that stay float

SETTINGS = {"threads": 1}


def network() -> onnx.ModelProto:
    """Three convolutions with rectifiers on 3x8x8 images, pooled to four scores."""
    random = np.random.default_rng(0)
    sizes = {"first": (8, 3), "second": (8, 8), "third": (4, 8)}
    weights = [
        numpy_helper.from_array(random.standard_normal((*size, 3, 3)).astype(np.float32), f"{name}.weight")
        for name, size in sizes.items()
    ]
    nodes, tensor = [], "image"
    for name in LAYERS:
        nodes.append(helper.make_node("Conv", [tensor, f"{name}.weight"], [f"{name}_sums"], name=name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"{name}_sums"], [f"{name}_out"], name=f"{name}_relu"))
        tensor = f"{name}_out"
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["scores"], name="flatten"))
    values = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


class Assigner:
    def __init__(self, lone: LoneStage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lone, self.folder, self.monkeypatch = lone, folder, monkeypatch

    def run(
        self, script: Script, *, accuracy_drop: float | None = None, clipped: str = "", host: str = "", **splits: Any
    ) -> Ran:
        """`clipped`: the tensor whose range is far too small, so that the layer that reads it is useless in int8."""
        model = network()
        onnx.save(model, self.folder / "network.onnx")
        tensors = ["image", *(f"{name}_out" for name in LAYERS), "pooled"]
        batches = [{"image": np.stack([Samples(8, (3, 8, 8))[index][0] for index in range(8)])}]
        scales = calibrate(model, tensors, batches, method="minmax").to_json()
        if clipped:
            scales["ranges"][clipped] = [end / 50 for end in scales["ranges"][clipped]]
        (self.folder / "scales").write_text(json.dumps(scales))
        self.lone.data(**(splits or {"validation": Samples(64, (3, 8, 8), label=None)}))

        def time(variants: Any, kept: set[Kept]) -> dict[Kept, list[int]]:
            for variant in kept:
                variants.compile(variant)  # what is timed must compile
            return {variant: [script(variant) + 10 * number for number in range(20)] for variant in kept}

        self.monkeypatch.setattr(assign_precision._Variants, "time", time)
        parameters = {
            "model": model_of((3, 8, 8)),
            "data": DATA,
            "metric": {"name": "fidelity"},
            "dialect": "onnxruntime-x86-vnni",
            "keep_float": [],
            "accuracy_drop": accuracy_drop,
            "backend": "onnxruntime",
            "settings": SETTINGS,
            "quantized_settings": {**SETTINGS, "disable": [], "config": {}},
            "host": host or fingerprint_id(fingerprint()),
        }
        paths = {"network": self.folder / "network.onnx", "scales": self.folder / "scales"}
        return self.lone.run("assign_precision", parameters, **paths)


@pytest.fixture
def assigner(lone: LoneStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assigner:
    return Assigner(lone, tmp_path, monkeypatch)


def table(ran: Ran) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(ran.output("precision").read_text())
    return content


def notes(ran: Ran) -> list[str]:
    return [event["text"] for event in ran.events if event["event"] == "note"]


def each_saves(nanoseconds: dict[str, int]) -> Script:
    """A backend where int8 in a layer saves its own time, whatever the others do."""
    return lambda kept: 100_000 - sum(saved for name, saved in nanoseconds.items() if name not in kept)


def test_where_int8_is_faster_everywhere_and_accurate_no_layer_stays_float(assigner: Assigner) -> None:
    ran = assigner.run(each_saves({"first": 9_000, "second": 20_000, "third": 5_000}), accuracy_drop=0.2)
    result = table(ran)
    assert (result["chosen"], result["kept_float"]) == ("int8", [])
    assert [layer["saving_ns"][1] for layer in result["layers"]] == [9_000, 20_000, 5_000]
    assert result["latency_ns"] == {"float": 100_095, "int8": 66_095, "chosen": 66_095}
    assert not ran.warnings()


def test_a_layer_that_int8_makes_slower_stays_float(assigner: Assigner) -> None:
    ran = assigner.run(each_saves({"first": -9_000, "second": 20_000, "third": 5_000}))
    assert (table(ran)["chosen"], table(ran)["kept_float"]) == ("mixed", ["first"])
    assert "1 of 3 layers stay float: int8 is slower there" in notes(ran)


def test_a_network_that_is_no_faster_in_int8_stays_float_and_says_so(assigner: Assigner) -> None:
    ran = assigner.run(lambda kept: 40_000 if len(kept) == 3 else 86_000)
    assert (table(ran)["chosen"], table(ran)["kept_float"]) == ("float", sorted(LAYERS))
    assert ran.warnings() == ["all layers stay float: int8 is not faster than float here: 0.086 ms against 0.040 ms"]


def test_layers_whose_savings_exist_only_alone_are_found(assigner: Assigner) -> None:
    """Between two int8 layers a third saves nothing, yet by itself it would: both directions are tried."""
    script: Script = lambda kept: {frozenset({"first", "third"}): 50_000}.get(kept, 90_000 - len(kept))  # noqa: E731
    assert table(assigner.run(script))["kept_float"] == ["first", "third"]


def test_the_layer_that_spoils_the_accuracy_stays_float_and_no_other(assigner: Assigner) -> None:
    savings = each_saves({"first": 9_000, "second": 20_000, "third": 5_000})
    ran = assigner.run(savings, accuracy_drop=0.1, clipped="image")
    result = table(ran)
    assert result["kept_float"] == ["first"]
    assert result["accuracy"]["int8"] < 0.9 <= result["accuracy"]["chosen"]
    sensitivities = {layer["name"]: layer["snr_db"] for layer in result["layers"]}
    assert min(sensitivities, key=lambda name: sensitivities[name]) == "first"
    assert "1 of 3 layers stay float: int8 everywhere would lose more than 10.00%" in notes(ran)


def test_without_a_bound_the_accuracy_is_told_and_nothing_stays_float_for_it(assigner: Assigner) -> None:
    result = table(assigner.run(each_saves(dict.fromkeys(LAYERS, 9_000)), clipped="first_out"))
    assert result["kept_float"] == []
    assert result["accuracy"]["chosen"] == result["accuracy"]["int8"] < 0.9


def test_without_a_validation_split_calibration_data_judge(assigner: Assigner) -> None:
    split = Samples(32, (3, 8, 8), label=None)
    assert table(assigner.run(each_saves({"second": 9_000}), calibration=split))["split"] == "calibration"


def test_times_of_another_host_are_not_taken(assigner: Assigner) -> None:
    with pytest.raises(StepFailed, match="planned on another host"):
        assigner.run(each_saves({}), host="0" * 64)


def test_quantize_follows_the_assignment(assigner: Assigner, lone: LoneStage, tmp_path: Path) -> None:
    ran = assigner.run(each_saves({"first": -9_000, "second": 20_000, "third": 5_000}))
    lone.data(calibration=Samples(8, (3, 8, 8)))
    parameters = {
        "model": model_of((3, 8, 8)),
        "data": DATA,
        "dialect": "onnxruntime-x86-vnni",
        "keep_float": [],
        "rounding": "nearest",
        "correct_bias": False,
    }
    paths = {"network": tmp_path / "network.onnx", "scales": tmp_path / "scales", "precision": ran.output("precision")}
    layers = json.loads(lone.run("quantize", parameters, **paths).output("layers").read_text())["layers"]
    assert {layer["name"]: layer["precision"] for layer in layers} == {
        "first": "float32",
        "second": "int8",
        "third": "int8",
    }
    ran.output("precision").write_text(json.dumps({"chosen": "float", "kept_float": sorted(LAYERS)}))
    quantized = lone.run("quantize", parameters, **paths).output("quantized")
    assert quantized.read_bytes() == (tmp_path / "network.onnx").read_bytes()
