"""The stages that run calibration samples take as many as were asked for, spread over the split, in whole batches."""

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

    def run(self, split: Samples, *, samples: int, batch: int | str = "batch", method: str = "minmax") -> Ran:
        self.lone.data(calibration=split)
        onnx.save(network_of(batch), self.network)
        parameters = {"model": model_of((3, 6, 6), batch=batch), "data": DATA, "samples": samples, "method": method}
        return self.lone.run("calibrate", parameters, network=self.network)

    def quantize(self, scales: Path, *, batch: int | str = "batch") -> Ran:
        model = model_of((3, 6, 6), batch=batch)
        parameters = {"model": model, "data": DATA, "dialect": "onnxruntime-x86-vnni", "keep_float": []}
        return self.lone.run("quantize", parameters, network=self.network, scales=scales)


@pytest.fixture
def calibrator(lone: LoneStage, tmp_path: Path) -> Calibrator:
    return Calibrator(lone, tmp_path)


def test_the_asked_number_of_samples_is_spread_over_the_split(calibrator: Calibrator) -> None:
    split = Watched(100)
    ran = calibrator.run(split, samples=20)
    assert split.seen == list(range(0, 100, 5))
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
    assert len(split.seen) == used
    assert ran.outcome.summary["samples"] == used
    quantized = calibrator.quantize(ran.output("scales"), batch=batch)
    assert quantized.outcome.summary["int8_layers"] == 1
    assert quantized.outcome.summary["lowest_snr_db"] > 20


def test_fewer_samples_than_a_fixed_batch_are_refused(calibrator: Calibrator) -> None:
    with pytest.raises(DataError, match=r"batch size of 32 is more than calibration\.samples asks for") as caught:
        calibrator.run(Watched(50), samples=8, batch=32)
    assert "multiple of 32" in caught.value.hint
