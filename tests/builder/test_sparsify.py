"""2:4 sparsity: the two smallest of every four weights go, training leaves them out, and the exported network has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from tests.builder.lone_stage import LoneStage, Ran, model_of
from torch import Tensor, nn

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.edits import (
    KeptChannels,
    Sparse,
    apply_edits,
    architecture_from_json,
    architecture_to_json,
    hold_zeros,
)
from enginewright.errors import DataError
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright.graph.sparsity import sparse_layers
from enginewright.graph.torch_export import export_network
from enginewright.signature import Signature

IMAGE = (3, 12, 12)
pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """One layer of every kind: three inputs, a normalisation behind it, depthwise, transposed, odd, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.body, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.deep = nn.Conv2d(32, 32, 3, groups=32)
        self.up = nn.ConvTranspose2d(32, 20, 2, stride=2)
        self.odd, self.even = nn.Conv2d(20, 18, 1), nn.Conv2d(18, 256, 1)
        self.wide, self.head = nn.Linear(256, 256), nn.Linear(256, 4)

    def forward(self, image: Tensor) -> Tensor:
        features = torch.relu(self.norm2(self.body(torch.relu(self.norm(self.stem(image))))))
        features = torch.relu(self.up(torch.relu(self.deep(features))))
        features = torch.relu(self.even(torch.relu(self.odd(features)))).mean((2, 3))
        return self.head(torch.relu(self.wide(features)))


SPARSE = ("body", "odd", "wide", "head")


def seeded() -> Net:
    torch.manual_seed(0)
    network = Net().train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, *IMAGE))
    return network.eval()


class Sparsifier:
    """Runs the stage on a network of these tests."""

    def __init__(self, lone: LoneStage, folder: Path) -> None:
        self.lone, self.folder = lone, folder

    def run(
        self,
        network: nn.Module,
        factory: Callable[[], nn.Module] = Net,
        *,
        keep: Sequence[str] = (),
        backend: str = "tensorrt",
    ) -> Ran:
        self.lone.module("model", Net=factory)
        save_checkpoint(self.folder / "start", network.state_dict(), ())
        parameters = {"pattern": "2:4", "keep": list(keep), "model": model_of(IMAGE), "backend": backend}
        return self.lone.run("sparsify", parameters, checkpoint=self.folder / "start")

    def rebuilt(self, ran: Ran) -> nn.Module:
        return make_network(model_of(IMAGE), self.folder, *load_checkpoint(ran.output("checkpoint")))


@pytest.fixture
def sparsifier(lone: LoneStage, tmp_path: Path) -> Sparsifier:
    return Sparsifier(lone, tmp_path)


def expected_weight(weight: Tensor) -> np.ndarray:
    """The pattern, written down plainly."""
    result = weight.detach().numpy().copy()
    for place in np.ndindex(len(result), *result.shape[2:]):
        row = result[(place[0], slice(None), *place[1:])]
        for start in range(0, len(row), 4):
            smallest = sorted(range(start, start + 4), key=lambda channel: abs(row[channel]))[:2]
            row[smallest] = 0.0
    return result


def test_the_two_smallest_of_every_four_inputs_go_for_each_output_and_kernel_position(sparsifier: Sparsifier) -> None:
    network = seeded()
    ran = sparsifier.run(network)
    state, architecture = load_checkpoint(ran.output("checkpoint"))
    assert architecture == (Sparse(SPARSE),)
    before = network.state_dict()
    for name, value in state.items():
        path, _, kind = name.rpartition(".")
        wanted = expected_weight(before[name]) if kind == "weight" and path in SPARSE else before[name].numpy()
        np.testing.assert_array_equal(value.numpy(), wanted, err_msg=name)
    squares = [
        float(weights[f"{path}.weight"].double().square().sum()) for weights in (state, before) for path in SPARSE
    ]
    kept = sum(squares[: len(SPARSE)]) / sum(squares[len(SPARSE) :])
    assert ran.outcome.summary["energy_kept"] == pytest.approx(kept, abs=1e-4)
    assert 0.7 < kept < 0.95


def test_of_equal_weights_two_remain(sparsifier: Sparsifier) -> None:
    network = seeded()
    with torch.no_grad():
        network.head.weight.fill_(-0.5)
    state, _ = load_checkpoint(sparsifier.run(network).output("checkpoint"))
    assert state["head.weight"].view(-1, 4).eq(torch.tensor([0.0, 0.0, -0.5, -0.5])).all()


def test_what_stays_dense_is_said_with_its_reason(sparsifier: Sparsifier) -> None:
    ran = sparsifier.run(seeded(), keep=("head",))
    assert ran.warnings()[0] == (
        "5 of 8 layers stay dense: stem (3 input channels, no multiple of 4); deep (depthwise or in groups); "
        "up (no sparse kernel for transposed convolutions); even (18 input channels, no multiple of 4); "
        "head (sparsify.keep names it)"
    )
    assert (ran.outcome.summary["sparse_layers"], ran.outcome.summary["dense_layers"]) == (3, 5)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_weight_that_is_computed_stays_dense(sparsifier: Sparsifier) -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            nn.utils.weight_norm(self.body)

    torch.manual_seed(0)
    ran = sparsifier.run(Normed().eval(), Normed)
    assert "body (the weight is computed from others)" in ran.warnings()[0]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_on_a_processor_it_is_said_that_nothing_is_gained(backend: str, sparsifier: Sparsifier) -> None:
    assert sparsifier.run(seeded(), backend=backend).warnings()[-1] == (
        f"2:4 sparsity brings no speed on this target: {backend} has no sparse kernels and multiplies the zeros, too"
    )


@pytest.mark.parametrize(("keep", "large"), [((), "1 of the 4"), (("wide",), "none of the 3")])
def test_on_a_gpu_it_is_said_how_many_layers_are_large_enough(
    keep: tuple[str, ...], large: str, sparsifier: Sparsifier
) -> None:
    ran = sparsifier.run(seeded(), keep=keep)
    assert "seldom saves more than 15 %" in ran.warnings()[-1]
    assert f"256 channels or more: {large} sparse layers" in ran.warnings()[-1]
    assert ran.outcome.summary["layers_with_256_channels"] == (0 if keep else 1)


def test_a_network_without_a_layer_for_it_is_refused(sparsifier: Sparsifier) -> None:
    with pytest.raises(DataError, match=r"no layer can be made sparse: .* \(sparsify\.keep names it\)"):
        sparsifier.run(seeded(), keep=SPARSE)


def test_a_module_to_keep_that_is_not_there_is_named(sparsifier: Sparsifier) -> None:
    with pytest.raises(DataError, match=r"sparsify\.keep names 'hed', which is no module") as caught:
        sparsifier.run(seeded(), keep=("hed",))
    assert caught.value.hint == "did you mean 'head'?"


def test_training_leaves_the_zeros_where_they_are_and_moves_the_rest(sparsifier: Sparsifier) -> None:
    ran = sparsifier.run(seeded())
    network = sparsifier.rebuilt(ran).train()
    _, architecture = load_checkpoint(ran.output("checkpoint"))
    network.to(memory_format=torch.channels_last)
    hold = hold_zeros(network, architecture)
    before = {path: network.get_submodule(path).weight.detach().clone() for path in (*SPARSE, "even")}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(8, *IMAGE)).square().sum().backward()
        optimizer.step()
        hold()
    for path in SPARSE:
        after = network.get_submodule(path).weight.detach()
        assert torch.equal(after != 0, before[path] != 0)
        assert (after != before[path]).sum() > 0.9 * (before[path] != 0).sum()
        assert after.stride() == before[path].stride()
    assert not torch.equal(network.even.weight, before["even"])


def test_without_a_sparse_layer_nothing_is_held() -> None:
    network = Net()
    hold = hold_zeros(network, (KeptChannels({}),))
    with torch.no_grad():
        network.body.weight.zero_()
    before = network.state_dict()
    hold()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_edit_survives_json_and_names_modules_that_are_there() -> None:
    (edit,) = architecture_from_json(architecture_to_json((Sparse(SPARSE),)))
    assert edit == Sparse(SPARSE)
    apply_edits(Net(), (edit,))
    with pytest.raises(DataError, match="the network has no module 'gone'"):
        apply_edits(Net(), (Sparse(("gone",)),))


def exported(network: nn.Module, folder: Path) -> onnx.ModelProto:
    export_network(network, Signature.from_json(model_of(IMAGE)), folder / "exported")
    simplified, _ = onnxsim.simplify(onnx.load(folder / "exported"))
    return simplified


def test_the_zeros_reach_the_engine_through_export_folding_and_int8(sparsifier: Sparsifier, tmp_path: Path) -> None:
    network = sparsifier.rebuilt(sparsifier.run(seeded(), keep=("head",)))
    simplified = exported(network, tmp_path)
    assert "BatchNormalization" not in {node.op_type for node in simplified.graph.node}
    named: dict[str, str] = {node.name: node.op_type for node in simplified.graph.node}
    assert sparse_layers(simplified) == ("body", "odd", "wide")
    images = {"image": np.random.default_rng(0).standard_normal((16, *IMAGE)).astype(np.float32)}
    scales = calibrate(simplified, tensors_to_calibrate(simplified), [images], method="minmax")
    for dialect in DIALECTS.values():
        assert sparse_layers(quantize(simplified, scales, dialect)) == ("body", "odd", "wide"), dialect.name
    assert {named[name] for name in ("body", "wide")} == {"Conv", "Gemm"}


def test_a_dense_network_has_no_sparse_layer(tmp_path: Path) -> None:
    assert sparse_layers(exported(seeded(), tmp_path)) == ()


def _one_layer(op: str, weight: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)],
        "one",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return make.make_model(graph)


@pytest.mark.parametrize(
    ("op", "shape", "axis", "attributes"),
    [
        ("Conv", (6, 8, 3, 3), 1, {}),
        ("Conv", (6, 8, 3), 1, {}),
        ("Gemm", (6, 8), 1, {"transB": 1}),
        ("Gemm", (8, 6), 0, {}),
        ("MatMul", (8, 6), 0, {}),
    ],
)
def test_the_pattern_is_looked_for_along_the_inputs_of_each_operator(
    op: str, shape: tuple[int, ...], axis: int, attributes: Any
) -> None:
    weight = np.ones(shape, np.float32)
    rows = np.moveaxis(weight, axis, -1)
    rows[..., [0, 1, 5, 7]] = 0
    assert sparse_layers(_one_layer(op, weight, **attributes)) == ("layer",)
    rows[..., 4] = rows[..., 6] = 0  # more zeros are as good
    assert sparse_layers(_one_layer(op, weight, **attributes)) == ("layer",)
    rows[(0,) * (rows.ndim - 1)][0] = 1  # a third weight in one group
    assert sparse_layers(_one_layer(op, weight, **attributes)) == ()


def test_no_sparse_kernel_takes_groups_transposed_convolutions_odd_channels_or_shifted_zeros() -> None:
    zeros = np.zeros((8, 8, 3, 3), np.float32)
    assert sparse_layers(_one_layer("Conv", zeros[:, :4], group=2)) == ()
    assert sparse_layers(_one_layer("ConvTranspose", zeros)) == ()
    assert sparse_layers(_one_layer("Conv", zeros[:, :6])) == ()
    shifted = _one_layer("Conv", zeros.astype(np.int8))
    scale, zero_point = np.array(0.1, np.float32), np.array(3, np.int8)
    shifted.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in (("s", scale), ("z", zero_point))
    )
    shifted.graph.node[0].input[1] = "real"
    shifted.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"], name="back"))
    assert sparse_layers(shifted) == ()
    shifted.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.int8), "z"))
    assert sparse_layers(shifted) == ("layer",)
