"""Export and simplify: the ONNX network computes what torch computed, whatever its inputs and outputs are, and carries
nothing of the computer that made it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.builder.lone_stage import LoneStage, Ran
from torch import Tensor, nn

from enginewright.checkpoint import save_checkpoint
from enginewright.errors import DataError
from enginewright.networks import count_macs
from enginewright.signature import Signature, largest_difference

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")
Shapes = Mapping[str, tuple[Any, ...]]


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))


class Pair(nn.Module):
    """Two inputs that are not alike, and two outputs, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 8), nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.left(left) - self.right(right))
        return {"any name": self.head(features), "another": features}


class Tokens(nn.Module):
    """A length that is free, integers, and a class as output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 4)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.head((self.embed(tokens) * mask.unsqueeze(-1)).sum(1))
        return scores, scores.argmax(-1)


class Exporter:
    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.folder = lone, folder

    def model(self, inputs: Shapes, outputs: tuple[str, ...]) -> dict[str, Any]:
        specs = {name: {"shape": list(shape[:-1]), "dtype": shape[-1]} for name, shape in inputs.items()}
        return {"factory": "model:Net", "arguments": {}, "inputs": specs, "outputs": list(outputs)}

    def export(self, factory: Callable[[], nn.Module], inputs: Shapes, outputs: tuple[str, ...] = ("scores",)) -> Ran:
        self.lone.module("model", Net=factory)
        torch.manual_seed(0)
        network = factory()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)
                nn.init.uniform_(module.running_mean)
        save_checkpoint(self.folder / "checkpoint", network.state_dict(), {})
        ran = self.lone.run("export", {"model": self.model(inputs, outputs)}, checkpoint=self.folder / "checkpoint")
        self.network = network.eval()
        return ran

    def simplify(self, exported: Path, inputs: Shapes, outputs: tuple[str, ...] = ("scores",)) -> Ran:
        return self.lone.run("simplify", {"model": self.model(inputs, outputs)}, exported=exported)


@pytest.fixture
def exporter(lone: LoneStage, tmp_path: Path) -> Exporter:
    return Exporter(lone, tmp_path)


def run(path: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: array for value, array in zip(session.get_inputs(), inputs, strict=True)})


def described(path: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    graph = onnx.load(path).graph
    return tuple(
        {item.name: [dim.dim_value or dim.dim_param for dim in item.type.tensor_type.shape.dim] for item in items}
        for items in (graph.input, graph.output)
    )


IMAGE: Shapes = {"image": ("batch", 3, 8, 8, "float32")}
PAIR: Shapes = {"left": ("batch", 6, "float32"), "right": ("batch", 3, "float32")}
TOKENS: Shapes = {"tokens": ("batch", "length", "int64"), "mask": ("batch", "length", "float32")}


def test_a_network_keeps_its_values_on_any_batch_through_export_and_simplify(exporter: Exporter) -> None:
    ran = exporter.export(Image, IMAGE)
    simplified = exporter.simplify(ran.output("exported"), IMAGE)
    assert described(ran.output("exported")) == ({"image": ["batch", 3, 8, 8]}, {"scores": ["batch", 4]})
    assert described(simplified.output("network")) == ({"image": ["batch", 3, 8, 8]}, {"scores": ["batch", 4]})
    for batch in (1, 7):
        images = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            expected = exporter.network(images).numpy()
        for path in (ran.output("exported"), simplified.output("network")):
            np.testing.assert_allclose(run(path, images.numpy())[0], expected, rtol=1e-4, atol=1e-5)
    assert ran.outcome.summary["largest_difference"] < 1e-5


def test_simplify_merges_the_normalisation_and_lists_the_layers_with_their_work(exporter: Exporter) -> None:
    ran = exporter.simplify(exporter.export(Image, IMAGE).output("exported"), IMAGE)
    operators = [node.op_type for node in onnx.load(ran.output("network")).graph.node]
    assert "BatchNormalization" not in operators
    table = json.loads(ran.output("layers").read_bytes())["layers"]
    assert [(layer["op"], layer["macs"]) for layer in table] == [("Conv", 8 * 3 * 9 * 64), ("Gemm", 8 * 4)]
    signature = Signature.from_json(exporter.model(IMAGE, ("scores",)))
    assert ran.outcome.summary["macs"] == count_macs(exporter.network, signature)


def test_layers_have_the_names_of_their_torch_modules(exporter: Exporter) -> None:
    ran = exporter.simplify(exporter.export(Image, IMAGE).output("exported"), IMAGE)
    assert [layer["name"] for layer in json.loads(ran.output("layers").read_bytes())["layers"]] == ["conv", "head"]


def test_two_inputs_and_two_outputs_have_the_names_and_the_order_of_the_recipe(exporter: Exporter) -> None:
    outputs = ("scores", "features")
    ran = exporter.export(Pair, PAIR, outputs)
    simplified = exporter.simplify(ran.output("exported"), PAIR, outputs)
    expected = ({"left": ["batch", 6], "right": ["batch", 3]}, {"scores": ["batch", 4], "features": ["batch", 8]})
    assert described(ran.output("exported")) == expected
    left, right = torch.randn(5, 6), torch.randn(5, 3)
    with torch.no_grad():
        wanted = [value.numpy() for value in exporter.network(left, right).values()]
    for path in (ran.output("exported"), simplified.output("network")):
        for actual, value in zip(run(path, left.numpy(), right.numpy()), wanted, strict=True):
            np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-5)


def test_a_fixed_batch_size_stays_fixed(exporter: Exporter) -> None:
    fixed: Shapes = {"image": (4, 3, 8, 8, "float32")}
    ran = exporter.simplify(exporter.export(Image, fixed).output("exported"), fixed)
    assert described(ran.output("network")) == ({"image": [4, 3, 8, 8]}, {"scores": [4, 4]})


def test_a_second_free_size_is_exported_and_then_refused_with_what_to_do(exporter: Exporter) -> None:
    ran = exporter.export(Tokens, TOKENS, ("scores", "class"))
    assert described(ran.output("exported"))[0] == {"tokens": ["batch", "length"], "mask": ["batch", "length"]}
    scores, classes = run(ran.output("exported"), np.ones((3, 5), np.int64), np.ones((3, 5), np.float32))
    with torch.no_grad():
        wanted = exporter.network(torch.ones(3, 5, dtype=torch.long), torch.ones(3, 5))
    np.testing.assert_allclose(scores, wanted[0].numpy(), rtol=1e-4, atol=1e-5)
    assert classes.tolist() == wanted[1].tolist()
    with pytest.raises(DataError, match=r"has no fixed size in dimension 1 \('length'\)") as caught:
        exporter.simplify(ran.output("exported"), TOKENS, ("scores", "class"))
    assert "one input size" in caught.value.hint


def test_the_exported_file_holds_no_path_and_no_name_of_this_computer(exporter: Exporter) -> None:
    ran = exporter.export(Image, IMAGE)
    for path in (ran.output("exported"), exporter.simplify(ran.output("exported"), IMAGE).output("network")):
        content = path.read_bytes()
        for secret in (str(ROOT), str(exporter.folder), sys.prefix, str(Path.home()), platform.node(), "s.py", "Image"):
            assert len(secret) < 4 or secret.encode() not in content


def test_the_same_network_has_the_same_bytes_wherever_its_lines_stand(exporter: Exporter) -> None:
    first = exporter.export(Image, IMAGE).output("exported").read_bytes()

    class Elsewhere(Image):
        def forward(self, image: Tensor) -> Tensor:
            # A comment, other lines and another class.
            return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))

    assert exporter.export(Elsewhere, IMAGE).output("exported").read_bytes() == first


class Branching(Image):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) if image.sum() > 0 else super().forward(-image)


class Random(Image):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image + torch.rand_like(image))


class Baked(Image):
    """Takes the batch size as a number."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * float(int(image.shape[0]))


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (Branching, "torch cannot export the network: "),
        (Random, "the exported network differs from torch: output 'scores' by "),
        (Baked, "does not run on a batch of|torch cannot export the network"),
    ],
)
def test_a_network_that_cannot_be_exported_faithfully_is_refused(
    factory: Callable[[], nn.Module], words: str, exporter: Exporter
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        exporter.export(factory, IMAGE)
    assert "forward" in caught.value.hint


def test_outputs_that_are_not_as_many_as_the_recipe_names_are_refused(exporter: Exporter) -> None:
    with pytest.raises(DataError, match="output"):
        exporter.export(Image, IMAGE, ("scores", "boxes"))


def test_simplifying_that_changes_the_outputs_is_refused(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = exporter.export(Image, IMAGE).output("exported")

    def careless(network: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        changed = onnx.ModelProto()
        changed.CopyFrom(network)
        weight = next(tensor for tensor in changed.graph.initializer if tensor.name.endswith("weight"))
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
        return changed, True

    monkeypatch.setattr("onnxsim.simplify", careless)
    with pytest.raises(DataError, match=r"simplifying changed the network's outputs by 0\.\d+ of their size"):
        exporter.simplify(exported, IMAGE)


def test_an_operator_that_onnx_runtime_lacks_is_said(lone: LoneStage, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Foo", ["x"], ["y"], domain="my.own")], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "n.onnx")
    model = {"inputs": {"x": {"shape": ["batch", 4], "dtype": "float32"}}, "outputs": ["y"]}
    with pytest.raises(DataError, match=r"ONNX Runtime cannot run the network: .*my\.own:Foo"):
        lone.run("simplify", {"model": model}, exported=tmp_path / "n.onnx")


@pytest.mark.parametrize(
    ("ours", "theirs", "difference"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -3.0], [1.0, -4.0], 0.25),
        ([[1.0, 1.0]], [1.0, 1.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        (np.array([0, 9], np.uint8), np.array([1, 10], np.uint8), 0.1),
        ([True, False], [True, True], 1.0),
    ],
)
def test_a_difference_is_a_share_of_the_largest_magnitude_and_no_broadcast_hides_it(
    ours: Any, theirs: Any, difference: float
) -> None:
    assert largest_difference(np.asarray(ours), np.asarray(theirs)) == pytest.approx(difference)


def test_nan_is_never_a_small_difference() -> None:
    assert not largest_difference(np.array([np.nan]), np.array([1.0])) <= 1e-4
