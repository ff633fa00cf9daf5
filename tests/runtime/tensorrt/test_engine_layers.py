"""What TensorRT says of an engine's layers, in both of its ways of saying it."""

from __future__ import annotations

import json

import pytest

from enginewright_runtime.tensorrt.engine_layers import (
    layers_from_inspector,
    layers_from_log,
    layers_to_json,
    with_times,
)

# As TensorRT-RTX 1.7 writes it, shortened.
LOG = """Layers:
Name: node_Conv_98_myl0_4, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [-1,16,16,16], Datatype: Int8, \
Format: (NHWC) Channel major format }], Constants: [ { Name: c, Datatype: Float, Format: x }], Outputs: [ { Name: b, \
Dimensions: [-1,16,16,16], Datatype: Half, Format: x }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: conv1]
Name: __myl_Move_myl0_1, LayerType: kgen, Inputs: [ { Name: image, Datatype: Float, Format: x }], Constants: [], \
Outputs: [ { Name: r, Datatype: Float, Format: x }], TacticName: t, StreamId: 0, Metadata:\x20

I/O Tensors:
 Name: image, IOMode: Input, DataType: Float
"""


def test_the_builders_log_tells_precision_and_nodes() -> None:
    layers = layers_from_log(["building", LOG])
    assert [(layer.nodes, layer.precision, layer.writes, layer.multiplies) for layer in layers] == [
        (("conv1",), "int8", "float16", True),
        ((), "float32", "float32", False),
    ]


@pytest.mark.parametrize(
    ("said", "precision"),
    [("UInt8", "integer"), ("BFloat16", "bfloat16"), ("BF16", "bfloat16"), ("Half", "float16"), ("FP8", "float8")],
)
def test_a_type_whose_name_has_another_s_in_it_is_not_taken_for_that(said: str, precision: str) -> None:
    told = {"Layers": [{"Name": "a", "LayerType": "kgen", "Inputs": [{"Datatype": said}], "Outputs": []}]}
    [layer] = layers_from_inspector(json.dumps(told))
    assert layer.precision == precision


def test_a_log_without_layers_tells_none() -> None:
    assert layers_from_log(["building", "done"]) == ()


def test_the_inspector_tells_reformats_and_fused_nodes() -> None:
    told = {
        "Layers": [
            {
                "Name": "Reformatting CopyNode for Input Tensor 0 to conv",
                "LayerType": "Reformat",
                "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
                "Outputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            },
            {
                "Name": "conv + relu",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Format/Datatype": "Int8 format"}, {"Format/Datatype": "FP16"}],
                "Outputs": [{"Format/Datatype": "Int8 format"}],
                "Metadata": "[ONNX Layer: conv]\x1e[ONNX Layer: relu]",
            },
        ]
    }
    reformat, fused = layers_from_inspector(json.dumps(told))
    assert (reformat.reformat, reformat.precision, reformat.writes) == (True, "float32", "int8")
    assert (fused.reformat, fused.precision, fused.nodes) == (False, "int8", ("conv", "relu"))
    assert layers_to_json([fused])["layers"] == [
        {
            "name": "conv + relu",
            "kind": "CaskConvolution",
            "nodes": ["conv", "relu"],
            "precision": "int8",
            "writes": "int8",
            "reformat": False,
            "multiplies": True,
            "time_ns": None,
        }
    ]
    [timed] = with_times([fused], {"conv + relu": (7_000,), "another": (1,)})
    assert timed.time_ns == 7_000
    assert layers_to_json([timed], runs=50)["runs"] == 50


def test_layers_that_share_a_name_have_a_time_each() -> None:
    twins = layers_from_inspector(json.dumps({"Layers": ["conv", "relu", "conv"]}))
    assert [layer.time_ns for layer in with_times(twins, {"conv": (5, 9), "relu": (2,)})] == [5, 2, 9]


def test_an_engine_without_details_tells_names_alone() -> None:
    [layer] = layers_from_inspector(json.dumps({"Layers": ["conv + relu"]}))
    assert (layer.name, layer.precision) == ("conv + relu", "")
    assert layer.nodes == ("conv", "relu")  # what there is of its nodes


def test_what_is_no_description_is_refused() -> None:
    with pytest.raises((KeyError, ValueError)):
        layers_from_inspector("{}")
