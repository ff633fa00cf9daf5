"""The stages that run calibration samples take as many as were asked for, spread over the split, in whole batches; and
where the recipe leaves the method open, the samples that are left over choose it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.builder.lone_stage import DATA, LoneStage, Ran, Samples, model_of

from enginewright.errors import DataError
from enginewright.graph.execution import open_session
from enginewright.graph.learned_ranges import module_ranges_to_json
from enginewright.graph.ranges import METHODS, Range, Scales
from enginewright.sample_digests import digests_from_json, digests_of


def network_of(batch: int | str) -> onnx.ModelProto:
    """A convolution and a rectifier on 3x6x6 images."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    shapes = {"image": [batch, 3, 6, 6], "scores": [batch, 4, 4, 4]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["sums"], name="conv"),
        helper.make_node("Relu", ["sums"], ["scores"], name="relu"),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


class Watched(Samples):
    def __init__(self, count: int) -> None:
        super().__init__(count, (3, 6, 6), label=None)
        self.seen: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.seen.append(index)
        return super().__getitem__(index)


class Calibrator:
    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.network = lone, folder / "network.onnx"

    def run(
        self,
        split: Any,
        *,
        samples: int,
        batch: int | str = "batch",
        method: str = "minmax",
        metric: Any = None,
        **inputs: Path,
    ) -> Ran:
        self.lone.data(calibration=split)
        onnx.save(network_of(batch), self.network)
        parameters = {"model": model_of((3, 6, 6), batch=batch), "data": DATA, "samples": samples, "method": method}
        if method == "auto":
            metric = metric or {"factory": "metric:Closeness", "arguments": {}}
            parameters.update(dialect="onnxruntime-x86-vnni", keep_float=[], metric=metric)
        return self.lone.run("calibrate", parameters, network=self.network, **inputs)

    def quantize(self, scales: Path, *, batch: int | str = "batch") -> Ran:
        model = model_of((3, 6, 6), batch=batch)
        parameters = {
            "model": model,
            "data": DATA,
            "dialect": "onnxruntime-x86-vnni",
            "keep_float": [],
            "rounding": "nearest",
            "correct_bias": False,
        }
        return self.lone.run("quantize", parameters, network=self.network, scales=scales)


@pytest.fixture
def calibrator(lone: LoneStage, tmp_path: Path) -> Calibrator:
    return Calibrator(lone, tmp_path)


def test_the_asked_number_of_samples_is_spread_over_the_split(calibrator: Calibrator) -> None:
    split = Watched(100)
    ran = calibrator.run(split, samples=20)
    # The first two are looked at before: two that differ are no placeholders.
    assert split.seen == [0, 5, *range(0, 100, 5)]
    assert ran.outcome.summary["samples"] == 20


def test_the_range_of_the_input_is_that_of_the_samples_that_were_seen(calibrator: Calibrator) -> None:
    split = Watched(10)
    ran = calibrator.run(split, samples=10)
    images = np.stack([split[index][0] for index in range(10)])
    low, high = json.loads(ran.output("scales").read_bytes())["ranges"]["image"]
    assert (low, high) == pytest.approx((images.min(), images.max()), rel=1e-6)


def test_the_same_samples_give_the_same_scales(calibrator: Calibrator) -> None:
    both = [calibrator.run(Watched(40), samples=40, method="entropy").output("scales").read_bytes() for _ in range(2)]
    assert both[0] == both[1]


def test_fewer_samples_than_asked_for_are_refused_with_both_numbers(calibrator: Calibrator) -> None:
    with pytest.raises(DataError, match=r"has 7 samples, and calibration\.samples asks for 8") as caught:
        calibrator.run(Watched(7), samples=8)
    assert "at most 7" in caught.value.hint


@pytest.mark.parametrize(("batch", "samples", "used"), [(8, 20, 16), (5, 20, 20), (1, 9, 9)])
def test_a_fixed_batch_size_takes_whole_batches_in_calibrating_and_quantizing(
    batch: int, samples: int, used: int, calibrator: Calibrator
) -> None:
    split = Watched(50)
    ran = calibrator.run(split, samples=samples, batch=batch)
    assert len(set(split.seen)) == used
    assert ran.outcome.summary["samples"] == used
    quantized = calibrator.quantize(ran.output("scales"), batch=batch)
    assert quantized.outcome.summary["int8_layers"] == 1
    assert quantized.outcome.summary["lowest_snr_db"] > 20


def test_placeholders_are_refused_before_anything_is_run(calibrator: Calibrator) -> None:
    with pytest.raises(DataError, match="all 20 samples that calibration reads are the same"):
        calibrator.run([(np.zeros((3, 6, 6), np.float32), 0)] * 20, samples=20)


def test_the_digests_of_the_samples_that_were_read_are_kept(calibrator: Calibrator) -> None:
    split = Watched(100)
    given = calibrator.run(split, samples=20)
    assert samples_of(given) == digests(split, range(0, 100, 5))
    chosen = calibrator.run(split, samples=20, method="auto")
    assert samples_of(chosen) == digests(split, range(100))  # those that are held back count, too


def samples_of(ran: Ran) -> frozenset[bytes]:
    return digests_from_json(json.loads(ran.output("samples").read_bytes()))


def digests(split: Samples, order: range) -> set[bytes]:
    return set(digests_of({"image": np.stack([split[index][0] for index in order])}))


class Bright(Samples):
    """Images of which one in 41 is fifty times as bright as the others. The label is what the network makes of
    the image.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count, (3, 6, 6), label=None)
        self.session = open_session(network_of("batch"), threads=1)

    def __getitem__(self, index: int) -> Any:
        image = super().__getitem__(index)[0] * np.float32(50 if index % 41 == 0 else 1)
        return image, self.session.run(None, {"image": image[None]})[0][0]


class Closeness:
    """How near the outputs are to the labels, on the images of ordinary brightness alone."""

    def __init__(self) -> None:
        self.differences: list[float] = []

    def update(self, outputs: Any, labels: Any) -> None:
        ordinary = labels.max((1, 2, 3)) < 60
        self.differences += np.abs(outputs["scores"] - labels).mean((1, 2, 3))[ordinary].tolist()

    def compute(self) -> float:
        return 1 / (1 + float(np.mean(self.differences)))


def test_the_method_with_the_most_signal_is_chosen_where_nothing_else_judges(calibrator: Calibrator) -> None:
    ran = calibrator.run(Watched(100), samples=20, method="auto", metric={"name": "top1"})
    scales = json.loads(ran.output("scales").read_bytes())
    auto = scales["auto"]
    signal = {item["method"]: item["signal_to_noise_db"] for item in auto["methods"]}
    assert list(signal) == list(METHODS)
    assert scales["method"] == auto["chosen"] == max(signal, key=lambda method: signal[method])
    assert (auto["chosen_by"], auto["held_back"], auto["metric"]) == ("signal to noise", 80, "top1")
    assert {item["accuracy"] for item in auto["methods"]} == {None}
    summary = ran.outcome.summary
    assert (summary["method"], summary["chosen_by"], summary["samples"]) == (scales["method"], "signal to noise", 20)
    assert summary[scales["method"]] == f"{signal[scales['method']]:.1f} dB"
    assert "the metric cannot judge the held-back samples: they have no labels" in ran.notes()[0]
    # The ranges are those of the samples that the method would get by its name.
    alone = calibrator.run(Watched(100), samples=20, method=scales["method"])
    assert json.loads(alone.output("scales").read_bytes())["ranges"] == scales["ranges"]
    assert Scales.from_json(scales).method == scales["method"]


def test_the_metric_overrules_the_signal_where_it_is_sure(calibrator: Calibrator) -> None:
    calibrator.lone.module("metric", Closeness=Closeness)
    ran = calibrator.run(Bright(400), samples=200, method="auto")
    auto = json.loads(ran.output("scales").read_bytes())["auto"]
    signal = {item["method"]: item["signal_to_noise_db"] for item in auto["methods"]}
    accuracy = {item["method"]: item["accuracy"] for item in auto["methods"]}
    assert auto["chosen_by"] == "accuracy"
    assert auto["float_accuracy"] == pytest.approx(1.0, abs=1e-6)
    assert accuracy[auto["chosen"]] == max(accuracy.values()) > accuracy["minmax"]
    assert signal[auto["chosen"]] < max(signal.values())


def test_where_all_samples_are_asked_for_a_quarter_is_held_back_and_that_is_said(calibrator: Calibrator) -> None:
    ran = calibrator.run(Watched(40), samples=40, method="auto", metric={"name": "fidelity"})
    assert (ran.outcome.summary["samples"], ran.outcome.summary["held_back"]) == (30, 10)
    assert ran.notes()[0] == (
        "of the 40 calibration samples 10 are held back to choose the method, and the ranges come from the other 30"
    )
    auto = json.loads(ran.output("scales").read_bytes())["auto"]
    assert auto["float_accuracy"] == 1.0  # it agrees with itself


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (lambda outputs, labels: 1 / 0, "metric:Closeness.update failed with ZeroDivisionError"),
        (lambda outputs, labels: None, "metric:Closeness.compute failed with ZeroDivisionError"),
    ],
    ids=["update", "compute"],
)
def test_a_metric_that_cannot_judge_the_held_back_samples_leaves_the_choice_to_the_signal(
    metric: Any, why: str, calibrator: Calibrator
) -> None:
    """A class may be missing among so few: that is no fault of the recipe."""
    made = type(
        "Rare", (), {"update": lambda self, outputs, labels: metric(outputs, labels), "compute": lambda _: 1 / 0}
    )
    calibrator.lone.module("metric", Closeness=made)
    ran = calibrator.run(Bright(40), samples=20, method="auto")
    assert ran.outcome.summary["chosen_by"] == "signal to noise"
    assert why in ran.notes()[0]


def test_a_fixed_batch_size_is_kept_in_choosing_a_method(calibrator: Calibrator) -> None:
    ran = calibrator.run(Watched(40), samples=30, batch=8, method="auto", metric={"name": "top1"})
    assert (ran.outcome.summary["samples"], ran.outcome.summary["held_back"]) == (24, 16)


def test_ranges_that_training_has_learned_go_before_those_that_were_seen(
    calibrator: Calibrator, tmp_path: Path
) -> None:
    learned = tmp_path / "learned"
    learned.write_text(json.dumps(module_ranges_to_json({"conv": Range(-1.25, 1.5), "gone": Range(0.0, 1.0)})))
    ran = calibrator.run(Watched(40), samples=30, method="auto", metric={"name": "top1"}, learned=learned)
    ranges = json.loads(ran.output("scales").read_bytes())["ranges"]
    assert ranges["image"] == [-1.25, 1.5]
    assert "the network has no layer gone, for which training has learned a range" in ran.warnings()[0]
    plain = calibrator.run(Watched(40), samples=30, method=ran.outcome.summary["method"])
    assert ranges["scores"] == json.loads(plain.output("scales").read_bytes())["ranges"]["scores"]


def test_fewer_samples_than_a_fixed_batch_are_refused(calibrator: Calibrator) -> None:
    with pytest.raises(DataError, match=r"batch size of 32 is more than calibration\.samples asks for") as caught:
        calibrator.run(Watched(50), samples=8, batch=32)
    assert "multiple of 32" in caught.value.hint
