"""Evaluating counts what the engine says on the whole test split, beside what the reference said, sample by sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.builder.lone_stage import DATA, LoneStage, Ran

from enginewright.datasets import Split
from enginewright.errors import DataError
from enginewright.sample_digests import digests_of, digests_to_json
from enginewright.signature import InputSpec, Signature
from enginewright.stages.evaluate import GOLDEN_SAMPLES, GOLDEN_TOLERANCE
from enginewright_runtime.backends import backend
from enginewright_runtime.npz import read_npz, write_npz
from enginewright_runtime.stats import paired_difference_interval

CLASSES = 3
# The scores of a sample are its input: what it is called is written in it.
RIGHT = np.eye(CLASSES, dtype=np.float32)


def engine_of(*, batch: int | str = "batch", matrix: np.ndarray = RIGHT, left: int | None = None) -> bytes:
    """scores = image @ matrix, plus a second input `offset` where `left` says how wide it is."""
    names = [("image", CLASSES)] + ([("offset", left)] if left else [])
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, width]) for name, width in names]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])
    nodes = [helper.make_node("MatMul", ["image", "matrix"], ["product" if left else "scores"])]
    if left:
        nodes.append(helper.make_node("Add", ["product", "offset"], ["scores"]))
    graph = helper.make_graph(nodes, "g", inputs, [scores], [numpy_helper.from_array(matrix, "matrix")])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(network)
    return backend("onnxruntime").compile(network.SerializeToString(), {"threads": 1})


def called(*classes: int, labels: Sequence[Any] | None = None) -> list[tuple[np.ndarray, Any]]:
    """Samples that an engine of RIGHT calls so; their labels are those given, else None."""
    return [(RIGHT[name] * 4 + index / 100, labels[index] if labels else None) for index, name in enumerate(classes)]


class Evaluator:
    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.folder = lone, folder
        (folder / "entry").write_text('{"backend": "onnxruntime", "settings": {"threads": 1}}')

    def run(
        self,
        test: Any,
        *,
        engine: bytes,
        metric: Any = None,
        reference: Any = None,
        batch: int | str = "batch",
        inputs: Any = None,
        calibrated: Any = None,
        **more: Any,
    ) -> Ran:
        self.lone.data(test=test, **more)
        (self.folder / "engine").write_bytes(engine)
        given = {"entry": self.folder / "entry", "engine": self.folder / "engine"}
        if reference is not None:
            given["reference_outputs"] = self.folder / "reference"
            given["reference_outputs"].write_bytes(write_npz({"scores": np.asarray(reference, np.float32)}))
        if calibrated is not None:
            given["calibration_samples"] = self.folder / "samples"
            given["calibration_samples"].write_text(json.dumps(digests_to_json(digests_of({"image": calibrated}))))
        specs = inputs or {"image": {"shape": [batch, CLASSES], "dtype": "float32"}}
        parameters = {
            "data": DATA,
            "metric": metric or {"name": "top1"},
            "model": {"inputs": specs, "outputs": ["scores"]},
        }
        return self.lone.run("evaluate", parameters, **given)


@pytest.fixture
def evaluator(lone: LoneStage, tmp_path: Path) -> Evaluator:
    return Evaluator(lone, tmp_path)


@pytest.fixture(scope="module")
def engine() -> bytes:
    return engine_of()


def evaluation(ran: Ran) -> dict[str, Any]:
    return json.loads(ran.output("evaluation").read_bytes())


def test_every_sample_of_the_split_counts_once_and_its_outputs_are_kept_in_order(
    evaluator: Evaluator, engine: bytes
) -> None:
    truths = [index % 3 for index in range(70)]
    calls = [0 if index % 10 == 0 else truth for index, truth in enumerate(truths)]
    samples = called(*calls, labels=truths)
    ran = evaluator.run(samples, engine=engine)
    content = evaluation(ran)
    right = sum(call == truth for call, truth in zip(calls, truths, strict=True))
    assert (content["samples"], content["accuracy"]) == (70, right / 70)
    assert np.sum(content["confusion"]) == 70
    assert content["confusion"][1][0] + content["confusion"][2][0] == 70 - right
    outputs = read_npz(ran.output("outputs").read_bytes())["scores"]
    np.testing.assert_array_equal(outputs, np.stack([image for image, _ in samples]))
    assert ran.outcome.summary == {"metric": "top1", "accuracy": round(right / 70, 5), "samples": 70}


def test_the_reference_itself_is_compared_with_nothing(evaluator: Evaluator, engine: bytes) -> None:
    content = evaluation(evaluator.run(called(0, 1, labels=[0, 1]), engine=engine))
    assert (content["agreement"], content["changed"], content["signal_to_noise_db"]) == (None, None, None)


def test_broken_and_fixed_samples_are_told_apart(evaluator: Evaluator, engine: bytes) -> None:
    truths = [0, 1, 2, 0, 1, 2, 1]
    ours, theirs = [0, 1, 0, 0, 2, 1, 0], [0, 1, 2, 1, 0, 0, 1]
    content = evaluation(evaluator.run(called(*ours, labels=truths), engine=engine, reference=RIGHT[theirs]))
    assert content["agreement"] == 2 / 7
    changed = content["changed"]
    assert (changed["broken"], changed["fixed"], changed["drop"]) == (2, 1, 1 / 7)
    assert changed["interval"] == list(paired_difference_interval(2, 1, 7, confidence=0.95))


def test_signal_to_noise_is_over_all_samples_and_none_where_the_bits_are_the_same(
    evaluator: Evaluator, engine: bytes
) -> None:
    samples = called(*[0, 1, 2] * 20, labels=[0, 1, 2] * 20)
    ours = np.stack([image for image, _ in samples])
    theirs = ours + np.random.default_rng(0).normal(0, 0.1, ours.shape).astype(np.float32)
    content = evaluation(evaluator.run(samples, engine=engine, reference=theirs))
    expected = 10 * np.log10((theirs.astype(np.float64) ** 2).sum() / ((ours - theirs.astype(np.float64)) ** 2).sum())
    assert content["signal_to_noise_db"]["scores"] == pytest.approx(expected, rel=1e-6)
    assert evaluation(evaluator.run(samples, engine=engine, reference=ours))["signal_to_noise_db"] == {"scores": None}


def test_without_labels_fidelity_is_the_agreement_and_the_reference_has_all_of_it(
    evaluator: Evaluator, engine: bytes
) -> None:
    fidelity = {"name": "fidelity"}
    content = evaluation(
        evaluator.run(called(0, 1, 2, 0), engine=engine, metric=fidelity, reference=RIGHT[[0, 1, 2, 1]])
    )
    assert (content["accuracy"], content["agreement"]) == (0.75, 0.75)
    assert (content["confusion"], content["per_class"], content["changed"]) == (None, None, None)
    assert evaluation(evaluator.run(called(0, 1), engine=engine, metric=fidelity))["accuracy"] == 1.0


def test_each_class_has_its_name_its_samples_and_its_accuracy(evaluator: Evaluator, engine: bytes) -> None:
    samples = called(0, 0, 1, labels=[0, 0, 0])
    content = evaluation(evaluator.run(samples, engine=engine, classes=["red", "amber", "green"]))
    assert content["per_class"] == [
        {"name": "red", "samples": 3, "accuracy": pytest.approx(2 / 3)},
        {"name": "amber", "samples": 0, "accuracy": None},
        {"name": "green", "samples": 0, "accuracy": None},
    ]
    content = evaluation(evaluator.run(samples, engine=engine, classes=["red", "green"]))
    assert content["classes"] is None
    assert [item["name"] for item in content["per_class"]] == ["0", "1", "2"]


def test_a_users_metric_stands_alone(evaluator: Evaluator, engine: bytes) -> None:
    class Mean:
        total = 0.0

        def update(self, outputs: Any, labels: Any) -> None:
            self.total += float((outputs["scores"].argmax(-1) * np.asarray(labels)[:, 0]).sum())

        def compute(self) -> float:
            return self.total

    evaluator.lone.module("metric", Made=Mean)
    metric = {"factory": "metric:Made", "arguments": {}}
    samples = called(0, 1, 2, labels=[[1.5, 0], [2.5, 0], [3.0, 0]])
    content = evaluation(evaluator.run(samples, engine=engine, metric=metric, reference=RIGHT))
    assert (content["metric"], content["accuracy"], content["interval"]) == ("metric:Made", 8.5, None)
    assert (content["confusion"], content["agreement"], content["changed"]) == (None, None, None)


def test_a_fixed_batch_size_leaves_out_the_samples_that_do_not_fill_a_batch(evaluator: Evaluator) -> None:
    fixed = engine_of(batch=8)
    samples = called(*[0, 1, 2] * 7, labels=[0, 1, 2] * 7)
    ran = evaluator.run(samples, engine=fixed, batch=8)
    assert evaluation(ran)["samples"] == 16
    reference = read_npz(ran.output("outputs").read_bytes())["scores"]
    assert len(reference) == 16
    content = evaluation(evaluator.run(samples, engine=fixed, batch=8, reference=reference))
    assert (content["samples"], content["agreement"]) == (16, 1.0)
    golden = read_npz(ran.output("golden").read_bytes())
    assert golden["input.image"].shape == (8, CLASSES)


def test_fewer_samples_than_a_fixed_batch_are_refused(evaluator: Evaluator) -> None:
    with pytest.raises(DataError, match="fewer samples than the network's batch size of 8"):
        evaluator.run(called(0, 1, labels=[0, 1]), engine=engine_of(batch=8), batch=8)


def test_two_inputs_come_from_dicts(evaluator: Evaluator) -> None:
    specs = {name: {"shape": ["batch", CLASSES], "dtype": "float32"} for name in ("image", "offset")}
    samples = [({"offset": 9 * RIGHT[1], "image": RIGHT[0]}, 1), ({"image": RIGHT[0], "offset": 0 * RIGHT[0]}, 0)]
    content = evaluation(evaluator.run(samples, engine=engine_of(left=CLASSES), inputs=specs))
    assert content["accuracy"] == 1.0


def test_the_golden_inputs_are_the_first_samples_with_what_the_engine_says_of_them(
    evaluator: Evaluator, engine: bytes
) -> None:
    samples = called(*[0, 1, 2] * 3, labels=[0, 1, 2] * 3)
    golden = read_npz(evaluator.run(samples, engine=engine).output("golden").read_bytes())
    images = np.stack([image for image, _ in samples[:GOLDEN_SAMPLES]])
    np.testing.assert_array_equal(golden["input.image"], images)
    np.testing.assert_array_equal(golden["output.scores"], images)
    assert golden["tolerance.scores"] == pytest.approx(GOLDEN_TOLERANCE * np.abs(images).max())


def test_outputs_that_are_not_finite_are_refused_with_where(evaluator: Evaluator) -> None:
    endless = engine_of(matrix=RIGHT * np.float32(1e38))
    samples = [*called(*[0] * 32, labels=[0] * 32), (RIGHT[0] * 1e5, 0)]
    samples = [(image * np.float32(1e-30), label) for image, label in samples[:32]] + samples[32:]
    with pytest.raises(
        DataError, match="the engine's output 'scores' is NaN or infinite on the test samples from 32 on"
    ):
        evaluator.run(samples, engine=endless)


def test_test_samples_that_calibration_has_read_are_counted_in_a_warning(evaluator: Evaluator, engine: bytes) -> None:
    samples = called(*[0, 1, 2] * 20, labels=[0, 1, 2] * 20)
    images = np.stack([image for image, _ in samples])
    ran = evaluator.run(samples, engine=engine, calibrated=images[[5, 5, 40]])
    assert len(ran.warnings()) == 1
    assert ran.warnings()[0].startswith("2 of the 60 test samples are calibration data, too")
    assert evaluator.run(samples, engine=engine, calibrated=images + 1).warnings() == []


def test_a_reference_of_other_samples_is_refused(evaluator: Evaluator, engine: bytes) -> None:
    with pytest.raises(DataError, match="evaluated on 2 test samples, and now there are 3") as caught:
        evaluator.run(called(0, 1, 2, labels=[0, 1, 2]), engine=engine, reference=RIGHT[[0, 1]])
    assert "the same samples each time" in caught.value.hint


def test_outputs_whose_first_dimension_is_not_the_batch_are_refused(evaluator: Evaluator) -> None:
    nodes = [helper.make_node("ReduceMean", ["image"], ["scores"], keepdims=0)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["batch", CLASSES]), ("scores", []))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    mean = backend("onnxruntime").compile(network.SerializeToString(), {"threads": 1})
    with pytest.raises(DataError, match=r"'scores' has the shape \[\] for 2 samples"):
        evaluator.run(called(0, 1, labels=[0, 1]), engine=mean)


def test_large_inputs_are_taken_a_few_at_a_time() -> None:
    """A batch of 32 images of 1.5 MB would hold gigabytes of what a U-Net makes of them."""
    sizes = {(3, 64, 64): 32, (3, 224, 224): 3, (3, 256, 512): 1, (3, 1024, 2048): 1}
    for shape, size in sizes.items():
        signature = Signature({"image": InputSpec(("batch", *shape), "float32")}, ("scores",))
        assert Split("test", [], signature).batch_size(32) == size
        fixed = Signature({"image": InputSpec((8, *shape), "float32")}, ("scores",))
        assert Split("test", [], fixed).batch_size(32) == 8


_PEAK = """
import json, pathlib, re, sys
import numpy as np
from tests.builder.lone_stage import DATA, LoneStage

samples, folder, reference = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
image = np.random.default_rng(0).standard_normal((4, 64, 64)).astype(np.float32)
class Images:
    def __len__(self):
        return samples
    def __getitem__(self, index):
        return image * np.float32(index + 1), None
lone = LoneStage(folder / f"{samples}{len(reference)}", sys.modules.__setitem__)
lone.data(test=Images())
inputs = {"entry": folder / "entry", "engine": folder / "engine"}
inputs.update({"reference_outputs": pathlib.Path(path) for path in reference})
model = {"inputs": {"image": {"shape": ["batch", 4, 64, 64], "dtype": "float32"}}, "outputs": ["mask"]}
ran = lone.run("evaluate", {"data": DATA, "metric": {"name": "fidelity"}, "model": model}, **inputs)
# Not ru_maxrss: that starts at what the parent had when it forked.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([peak, str(ran.output("outputs"))]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which Linux has")
def test_peak_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    """The outputs of 512 samples are 32 MiB, and as much for the reference; the peak may grow by a tenth of both."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 64, 64]) for name in ("image", "mask")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["mask"])], "g", ends[:1], ends[1:])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "engine").write_bytes(backend("onnxruntime").compile(network.SerializeToString(), {"threads": 1}))
    (tmp_path / "entry").write_text('{"backend": "onnxruntime", "settings": {"threads": 1}}')

    def peak(samples: int, *reference: str) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _PEAK, str(samples), str(tmp_path), *reference]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found, outputs = json.loads(done.stdout)
        return found, outputs

    few, few_outputs = peak(128)
    many, many_outputs = peak(512)
    assert Path(many_outputs).stat().st_size > 32 << 20
    compared = peak(128, few_outputs)[0], peak(512, many_outputs)[0]
    assert few > 16 << 20  # it measures something
    assert max(many - few, compared[1] - compared[0]) < 7 << 20
