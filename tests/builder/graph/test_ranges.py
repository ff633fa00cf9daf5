from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginewright.errors import DataError
from enginewright.graph import execution
from enginewright.graph.ranges import METHODS, Range, Scales, calibrate, observe


def _scaled(factor: float) -> onnx.ModelProto:
    """y = relu(x * factor), with free batch."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("x", "y")]
    constant = numpy_helper.from_array(np.array(factor, np.float32), "factor")
    graph = helper.make_graph(nodes, "scaled", [value[0]], [value[1]], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _batches(count: int, size: int = 4, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((size, 64)).astype(np.float32)} for _ in range(count)]


def test_ranges_are_those_of_all_samples_of_inputs_inner_tensors_and_outputs() -> None:
    batches = _batches(5)
    scales = calibrate(_scaled(3.0), ["x", "m", "y"], batches, method="minmax")
    seen = np.concatenate([batch["x"] for batch in batches])
    assert scales.samples == 20
    assert scales.range("x") == Range(float(seen.min()), float(seen.max()))
    assert scales.range("m") == Range(float((seen * np.float32(3)).min()), float((seen * np.float32(3)).max()))
    assert scales.range("y") == Range(0.0, float((seen * np.float32(3)).max()))


def test_batch_sizes_do_not_change_the_ranges() -> None:
    samples = np.concatenate([batch["x"] for batch in _batches(6)])
    for method in METHODS:
        whole = calibrate(_scaled(2.0), ["m"], [{"x": samples}], method=method)
        parts = calibrate(_scaled(2.0), ["m"], [{"x": samples[:5]}, {"x": samples[5:]}], method=method)
        assert whole == parts


def test_more_activations_than_may_be_held_at_once_are_watched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = _batches(3, size=10)
    expected = calibrate(_scaled(2.0), ["m", "y"], batches, method="entropy")
    monkeypatch.setattr(execution, "_MOST_BYTES", 64 * 4)  # one tensor: two sessions
    monkeypatch.setattr(execution, "_LIMIT_BYTES", 3 * 64 * 4)  # three samples: four parts
    assert calibrate(_scaled(2.0), ["m", "y"], batches, method="entropy") == expected


def test_progress_is_told_in_samples_after_each_batch() -> None:
    told: list[int] = []
    calibrate(_scaled(1.0), ["y"], _batches(3, size=4), method="minmax", on_batch=told.append)
    assert told == [4, 8, 12]


def test_nan_in_the_data_is_refused_with_the_tensor_where_it_showed() -> None:
    batch = _batches(1)[0]
    batch["x"][1, 2] = np.nan
    with pytest.raises(DataError, match=r"tensor 'x' holds 1 values that are not finite"):
        calibrate(_scaled(1.0), ["x", "y"], [batch], method="minmax")


def test_overflow_inside_the_network_is_refused_with_the_tensor_where_it_showed() -> None:
    with pytest.raises(DataError, match=r"tensor 'm' holds \d+ values that are not finite"):
        calibrate(_scaled(3e38), ["x", "m"], [{"x": np.full((1, 64), 100.0, np.float32)}], method="minmax")


@pytest.mark.parametrize(
    ("tensors", "batches", "method", "message"),
    [
        (["y"], [], "minmax", "not a single sample"),
        (["z"], _batches(1), "minmax", "no tensor 'z'"),
        (
            ["x", "y"],
            [{"image": np.zeros((1, 64), np.float32)}],
            "minmax",
            "lacks the input x of the network; it has image",
        ),
        (["y"], _batches(1), "maxmin", "unknown calibration method 'maxmin'"),
        (["y"], [{"x": np.zeros((0, 64), np.float32)}], "minmax", "at least one"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(tensors: list[str], batches: list, method: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibrate(_scaled(1.0), tensors, batches, method=method)


def test_a_concatenation_has_the_ranges_of_its_values_though_it_is_not_looked_at() -> None:
    """y: concatenated from what two rectifiers make; z: from y and the input."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b", "a"], ["y"], axis=1),
        helper.make_node("Concat", ["y", "x"], ["z"], axis=1),
        helper.make_node("Abs", ["z"], ["magnitude"]),
        helper.make_node("Abs", ["y"], ["other"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", 64), ("magnitude", 256), ("other", 192))
    ]
    graph = helper.make_graph(nodes, "joined", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for method in METHODS:
        # Without its parts among the wanted tensors, a concatenation is looked at itself.
        looked_at = [calibrate(model, [name], _batches(3), method=method).range(name) for name in ("y", "z")]
        derived = calibrate(model, ["z", "x", "a", "b", "y"], _batches(3), method=method)
        assert [derived.range(name) for name in ("y", "z")] == looked_at
        assert list(derived.ranges) == ["z", "x", "a", "b", "y"]
        assert calibrate(model, ["a", "y"], _batches(3), method=method).range("y") == looked_at[0]


def test_all_methods_come_from_one_pass() -> None:
    seen = observe(_scaled(1.0), ["x", "y"], _batches(4))
    for method in METHODS:
        assert seen.scales(method) == calibrate(_scaled(1.0), ["x", "y"], _batches(4), method=method)


def test_a_fixed_batch_size_in_the_network_is_kept() -> None:
    model = _scaled(1.0)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    assert calibrate(model, ["y"], _batches(2, size=4), method="mse").samples == 8


def test_scales_survive_json_and_unknown_keys() -> None:
    scales = calibrate(_scaled(1.0), ["x", "y"], _batches(2), method="percentile")
    text = json.dumps({**scales.to_json(), "key of a later version": 1}, allow_nan=False)
    assert Scales.from_json(json.loads(text)) == scales


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "newer than 1"),
        ({"format": None}, "not scales"),
        ({"samples": "many"}, "not scales"),
        ({"ranges": {"x": [0.0]}}, "tensor 'x' is not a pair"),
        ({"ranges": {"x": [1.0, -1.0]}}, "from 1.0 to|got 1.0 to -1.0"),
        ({"ranges": {"x": [0.0, float("inf")]}}, "finite"),
    ],
)
def test_broken_scales_are_refused(change: dict, message: str) -> None:
    good = {"format": 1, "method": "mse", "samples": 3, "ranges": {"x": [0.0, 1.0]}}
    with pytest.raises(DataError, match=message):
        Scales.from_json({**good, **change})


def test_a_missing_range_is_an_error_that_names_the_tensor() -> None:
    with pytest.raises(DataError, match="no range for tensor 'relu_9'"):
        Scales("mse", 1, {}).range("relu_9")


_PEAK = """
import pathlib, re, sys
import numpy as np, onnx
from enginewright.graph.ranges import calibrate

model = onnx.load(sys.argv[1])
def batches(samples):
    for number in range(samples // 8):
        yield {"x": np.random.default_rng(number).standard_normal((8, 16, 64, 64)).astype(np.float32)}
calibrate(model, ["x", "a", "b"], batches(int(sys.argv[2])), method="entropy")
# Not ru_maxrss: that starts at what the parent had when it forked.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which Linux has")
def test_peak_memory_does_not_grow_with_the_number_of_samples(tmp_path) -> None:
    """512 samples of these tensors are 400 MB; the peak may exceed that of 32 samples by a tenth of it."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16, 64, 64]) for name in ("x", "b")]
    graph = helper.make_graph(nodes, "wide", [value[0]], [value[1]])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "wide.onnx"
    )

    def peak(samples: int) -> int:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _PEAK, str(tmp_path / "wide.onnx"), str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    few, many = peak(32), peak(512)
    assert few > 32 << 20  # it measures something
    assert many - few < 40 << 20
