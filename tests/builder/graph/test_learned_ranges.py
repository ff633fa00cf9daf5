"""Ranges that were learned by layer find the tensors that those layers read, also after exporting and simplifying."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.builder.exporting import exported
from tests.builder.graph.conftest import Decoder, Residual, Tokens
from tests.builder.graph.small_networks import conv, conv_constants, network
from tests.builder.lone_stage import model_of
from torch import nn

from enginewright.errors import DataError
from enginewright.graph.learned_ranges import learned_ranges, module_ranges_from_json, module_ranges_to_json
from enginewright.graph.methods import Range
from enginewright.graph.topology import Topology
from enginewright.signature import Signature
from enginewright.training.folding import fold_norms


def ranges(*names: str) -> dict[str, Range]:
    """A range of its own for each name."""
    return {name: Range(-1.0, float(number)) for number, name in enumerate(names, 1)}


def reads(model: onnx.ModelProto, layer: str) -> str:
    """The tensor that the node with the weight or the bias of `layer` reads."""
    found = [node for node in model.graph.node if {f"{layer}.weight", f"{layer}.bias"} & set(node.input)]
    return str(found[0].input[0])


@pytest.mark.parametrize(
    ("factory", "shape", "folded"),
    [
        (Residual, (3, 32, 32), True),
        (Residual, (3, 32, 32), False),
        (Decoder, (3, 16, 16), False),
        (Tokens, (16, 32), False),
    ],
)
def test_every_layer_is_found_after_exporting_and_simplifying(
    factory: type[nn.Module], shape: tuple[int, ...], folded: bool, tmp_path: Path
) -> None:
    signature = Signature.from_json(model_of(shape))
    torch_network = factory().eval()
    if folded:
        fold_norms(torch_network, signature)
    model = exported(torch_network, signature, tmp_path)
    layers = [path for path, module in torch_network.named_modules() if hasattr(module, "weight")]
    products = [path for path in layers if "orm" not in type(torch_network.get_submodule(path)).__name__]
    learned = learned_ranges(model, {path: Range(0.0, float(number)) for number, path in enumerate(products, 1)})
    assert learned.missing == ()
    for node in Topology(model).nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            assert node.input[0] in learned.tensors


def test_a_tensor_that_several_layers_read_has_the_union() -> None:
    nodes = [conv("a", "x", "t"), conv("b", "t", "u"), conv("c", "t", "y")]
    constants = {**conv_constants("a", 16, 16), **conv_constants("b", 16, 16), **conv_constants("c", 16, 16)}
    model = network(nodes, constants, outputs=("u", "y"))
    learned = learned_ranges(model, {"b": Range(-1.0, 2.0), "c": Range(-3.0, 1.0)})
    assert learned.tensors == {"t": Range(-3.0, 2.0)}


def test_what_moves_values_passes_the_range_up_to_whoever_else_reads() -> None:
    """y = c(pool(t)), with t read by the pool alone: both have the same integers. What is read elsewhere keeps its own."""
    pool = helper.make_node("MaxPool", ["t"], ["u"], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    constants = {**conv_constants("a", 16, 16), **conv_constants("c", 16, 16)}
    modules = {"c": Range(-1.0, 2.0)}
    alone = network([conv("a", "x", "t"), pool, conv("c", "u", "y")], constants)
    assert learned_ranges(alone, modules).tensors == {"t": Range(-1.0, 2.0), "u": Range(-1.0, 2.0)}
    shared = network([conv("a", "x", "t"), pool, conv("c", "u", "y")], constants, outputs=("y", "t"))
    assert learned_ranges(shared, modules).tensors == {"u": Range(-1.0, 2.0)}


def test_a_concatenation_passes_it_to_all_its_parts_but_never_below_zero_behind_a_rectifier() -> None:
    nodes = [
        conv("a", "x", "s"),
        conv("b", "x", "t"),
        helper.make_node("Relu", ["t"], ["r"], name="relu"),
        helper.make_node("Concat", ["s", "r"], ["u"], name="join", axis=1),
        conv("c", "u", "y"),
    ]
    constants = {**conv_constants("a", 16, 16), **conv_constants("b", 16, 16), **conv_constants("c", 32, 16)}
    learned = learned_ranges(network(nodes, constants), {"c": Range(-1.0, 2.0)})
    assert learned.tensors == {"s": Range(-1.0, 2.0), "r": Range(0.0, 2.0), "u": Range(-1.0, 2.0)}


def test_what_a_tensor_is_asked_for_directly_wins_over_what_is_passed_to_it() -> None:
    pool = helper.make_node("MaxPool", ["t"], ["u"], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    more = helper.make_node("Flatten", ["u"], ["v"], name="flat")
    constants = {
        **conv_constants("a", 16, 16),
        "c.weight": np.ones((4, 256), np.float32),
        "c.bias": np.zeros(4, np.float32),
    }
    gemm = helper.make_node("Gemm", ["v", "c.weight", "c.bias"], ["y"], name="other", transB=1)
    model = network([conv("a", "x", "t"), pool, more, gemm], constants)
    learned = learned_ranges(model, {"c": Range(-1.0, 2.0), "a": Range(0.0, 5.0)})
    assert learned.tensors == {
        "x": Range(0.0, 5.0),
        **dict.fromkeys(("t", "u", "v"), Range(-1.0, 2.0)),
    }


def test_a_layer_without_a_node_is_named_and_the_others_are_used() -> None:
    model = network([conv("a", "x", "y")], conv_constants("a", 16, 16))
    learned = learned_ranges(model, {"a": Range(0.0, 1.0), "gone": Range(0.0, 2.0)})
    assert learned.missing == ("gone",)
    assert learned.tensors == {"x": Range(0.0, 1.0)}


def test_the_json_form_is_read_back_and_anything_else_refused() -> None:
    modules = {"stem.conv": Range(-1.5, 2.25), "head": Range(0.0, 1e-5)}
    content = json.loads(json.dumps(module_ranges_to_json(modules)))
    assert content["modules"]["head"] == {"input": [0.0, 1e-5]}
    assert module_ranges_from_json(content) == modules
    with pytest.raises(DataError, match="format 2, newer than 1"):
        module_ranges_from_json({**content, "format": 2})
    for wrong in (
        [],
        {},
        {"format": 1},
        {"format": 1, "modules": {"a": {}}},
        {"format": 1, "modules": {"a": {"input": [1]}}},
    ):
        with pytest.raises(DataError, match="no ranges of modules"):
            module_ranges_from_json(wrong)
