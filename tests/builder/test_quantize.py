"""The stage `quantize`: better weights and biases where the recipe asks for them, and the same pairs either way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.builder.lone_stage import DATA, LoneStage, Ran, model_of

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.fidelity import signal_to_noise
from enginewright.graph.lint import lint
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import Scales, calibrate

_EVERY = pytest.mark.parametrize("dialect", DIALECTS)
SHAPE = (16, 12, 12)


class Smooth:
    """Images whose neighbours are alike and whose mean is not zero: real ones are like that, and noise is not."""

    def __init__(self, count: int) -> None:
        self.read: list[int] = []
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], None]:
        self.read.append(index)
        image = np.random.default_rng(index).standard_normal(SHAPE).astype(np.float32)
        for axis in (1, 2):
            image = image + np.roll(image, 1, axis) + np.roll(image, 2, axis)
        return (image + 3.0).astype(np.float32), None


def network() -> onnx.ModelProto:
    """Three convolutions with rectifiers in a row, with weights that lie on no grid."""
    random = np.random.default_rng(0)
    constants, nodes, tensor = [], [], "image"
    for name in ("first", "second", "third"):
        for part, shape in (("weight", (16, 16, 3, 3)), ("bias", (16,))):
            value = (random.standard_normal(shape) / 12).astype(np.float32)
            constants.append(numpy_helper.from_array(value, f"{name}.{part}"))
        last = name == "third"
        sums = "scores" if last else f"{name}_sums"
        nodes.append(
            helper.make_node("Conv", [tensor, f"{name}.weight", f"{name}.bias"], [sums], name=name, pads=[1] * 4)
        )
        if not last:
            nodes.append(helper.make_node("Relu", [sums], [f"{name}_out"], name=f"{name}_relu"))
        tensor = f"{name}_out"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *SHAPE]) for name in ("image", "scores")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


class Quantizer:
    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.folder = lone, folder
        self.samples = Smooth(300)
        model = network()
        onnx.save(model, folder / "network.onnx")
        batch = {"image": np.stack([self.samples[index][0] for index in range(8)])}
        scales = calibrate(model, tensors_to_calibrate(model), [batch], method="minmax")
        (folder / "scales").write_text(json.dumps(scales.to_json()))

    def run(self, *, dialect: str = "onnxruntime-x86", rounding: str = "nearest", correct_bias: bool = False) -> Ran:
        self.samples.read.clear()
        self.lone.data(calibration=self.samples)
        parameters = {
            "model": model_of(SHAPE),
            "data": DATA,
            "dialect": dialect,
            "keep_float": [],
            "rounding": rounding,
            "correct_bias": correct_bias,
        }
        paths = {"network": self.folder / "network.onnx", "scales": self.folder / "scales"}
        return self.lone.run("quantize", parameters, **paths)


@pytest.fixture
def quantizer(lone: LoneStage, tmp_path: Path) -> Quantizer:
    return Quantizer(lone, tmp_path)


def quantized(ran: Ran) -> onnx.ModelProto:
    return onnx.load(ran.output("quantized"))


def decibels(ran: Ran) -> float:
    unseen = Smooth(40)
    batch = {"image": np.stack([unseen[index][0] for index in range(1000, 1016)])}
    return float(signal_to_noise(network(), quantized(ran), [batch])["scores"])


@_EVERY
def test_the_pairs_are_the_same_and_the_outputs_are_nearer_to_the_float_ones(
    dialect: str, quantizer: Quantizer
) -> None:
    plain = quantizer.run(dialect=dialect)
    biases = quantizer.run(dialect=dialect, correct_bias=True)
    both = quantizer.run(dialect=dialect, correct_bias=True, rounding="adaptive")
    nodes = [[(node.op_type, node.name) for node in quantized(ran).graph.node] for ran in (plain, biases, both)]
    assert nodes[0] == nodes[1] == nodes[2]
    assert lint(quantized(both), DIALECTS[dialect]) == ()
    figures = [decibels(ran) for ran in (plain, biases, both)]
    assert figures[1] > figures[0] + 0.5
    # Eight bits leave little to gain beside the noise of the activations; seven leave more.
    assert figures[2] > figures[1] + (0.5 if DIALECTS[dialect].weight_limit == 64 else -0.1)


def test_rounding_to_the_nearest_is_what_quantize_gives(quantizer: Quantizer) -> None:
    scales = Scales.from_json(json.loads((quantizer.folder / "scales").read_text()))
    assert quantized(quantizer.run()) == quantize(network(), scales, DIALECTS["onnxruntime-x86"])


def test_the_table_of_layers_tells_what_the_better_weights_give(quantizer: Quantizer) -> None:
    plain, both = quantizer.run(), quantizer.run(correct_bias=True, rounding="adaptive")
    figures = [
        {layer["name"]: layer["snr_db"] for layer in json.loads(ran.output("layers").read_text())["layers"]}
        for ran in (plain, both)
    ]
    assert all(figures[1][name] > figures[0][name] for name in ("second", "third"))
    assert both.outcome.summary["lowest_snr_db"] == min(figures[1].values())


def test_samples_are_spread_over_the_whole_split(quantizer: Quantizer) -> None:
    quantizer.run(correct_bias=True)
    assert max(quantizer.samples.read) > 290
    quantizer.run(rounding="adaptive")
    assert len(set(quantizer.samples.read)) >= 256


def test_a_small_calibration_split_is_enough(quantizer: Quantizer) -> None:
    quantizer.samples = Smooth(9)
    quantizer.run(correct_bias=True, rounding="adaptive")
    assert set(quantizer.samples.read) == set(range(9))


def test_what_is_done_is_told_layer_by_layer(quantizer: Quantizer) -> None:
    events = [event for event in quantizer.run(correct_bias=True).events if event["event"] == "progress"]
    assert [(event["done"], event["total"]) for event in events] == [(1, 3), (2, 3), (3, 3)]
    assert {event["note"] for event in events} == {"correcting biases"}
