"""What the report says of the layers of an engine: what was fused, what it takes, and what int8 costs besides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.builder.report.report_cases import compiled, engine_layers, reformat
from tests.runtime.tensorrt.networks import PAIR, product

from enginewright.report.engine_data import EngineLayers, Quantization, QuantizerPair
from enginewright.report.engine_layers import broken_pairs, engine_view
from enginewright.report.parts_chart import parts_chart
from enginewright.report.quantizer_pairs import quantization_of
from enginewright_runtime.errors import BundleError

BETWEEN = QuantizerPair("c/quantize", "c/dequantize", "c", ("relu",), splits=True)


def only(pair: QuantizerPair) -> Quantization:
    return Quantization(frozenset(pair.nodes), (pair,))


def test_the_cost_of_reformats_is_told_with_its_share() -> None:
    layers = (reformat("Reformatting CopyNode", 10_000), compiled("c", nodes=("c",), time_ns=30_000))
    view = engine_view(EngineLayers(layers, runs=50))
    assert view.sentences[0] == "2 layers: 1 in int8, 1 that only reformat, and 0 others."
    assert view.sentences[1] == "The layers that only reformat take 10.0 µs, 25.00 % of the time of all layers."
    assert [row.share for row in view.rows] == [0.25, 0.75]
    assert [row.remark for row in view.rows] == ["reformat", ""]


def test_a_node_that_asks_for_int8_and_does_not_get_it_is_named() -> None:
    layers = (compiled("a", nodes=("a", "relu"), time_ns=1, reads="float16"), compiled("b", nodes=("b",), time_ns=1))
    view = engine_view(EngineLayers(layers, wanted=("a", "b")))
    assert view.sentences[-1] == "Computed in another precision, though the network's Q/DQ pairs ask for int8: a."
    view = engine_view(EngineLayers(layers[1:], wanted=("b",)))
    assert view.sentences[-1] == "Nothing that the network's Q/DQ pairs ask int8 for is computed in another precision."


def test_a_pair_that_is_fused_with_its_neighbours_costs_nothing() -> None:
    fused = compiled("c", nodes=("c", "c/quantize"), time_ns=1)
    after = compiled("d", nodes=("c/dequantize", "d"), time_ns=1)
    pair = replace(BETWEEN, after=("d",), splits=False)
    assert broken_pairs(EngineLayers((fused, after), quantization=only(pair))) == ()


def test_a_pair_that_is_a_layer_of_its_own_is_named_with_its_place_and_its_time() -> None:
    layers = (
        compiled("c", nodes=("c",), time_ns=1),
        compiled("q", nodes=BETWEEN.nodes, time_ns=5_200),
        compiled("d", nodes=("d",), time_ns=1),
    )
    [said] = broken_pairs(EngineLayers(layers, quantization=only(replace(BETWEEN, after=("d",), splits=False))))
    assert (
        said
        == "c/quantize, behind c and before d: fused with nothing, computed by c/quantize + c/dequantize (5.20 µs)."
    )


def test_a_pair_between_a_product_and_its_activation_parts_them() -> None:
    layers = (
        compiled("c", nodes=("c", "c/quantize"), time_ns=9_000),
        compiled("r", nodes=("c/dequantize", "relu"), time_ns=2_000),
    )
    [said] = broken_pairs(EngineLayers(layers, quantization=only(BETWEEN)))
    assert said == (
        "c/quantize, behind c and before relu: what it stands between is computed apart, by c (9.00 µs) "
        "and relu (2.00 µs)."
    )


def test_a_product_and_its_activation_in_one_layer_are_not_parted() -> None:
    together = compiled("c", nodes=("c", *BETWEEN.nodes, "relu"), time_ns=1)
    assert broken_pairs(EngineLayers((together,), quantization=only(BETWEEN))) == ()


def test_a_product_of_which_one_layer_has_the_activation_too_is_not_parted() -> None:
    """Newer versions compute a product in one layer, and its end with what follows in the next."""
    layers = (
        compiled("c", nodes=("c",), time_ns=1),
        compiled("end", nodes=("c", *BETWEEN.nodes, "relu"), time_ns=1, kind="kgen"),
    )
    assert broken_pairs(EngineLayers(layers, quantization=only(BETWEEN))) == ()


def test_the_floor_of_a_node_in_two_layers_is_that_of_the_one_that_multiplies() -> None:
    layers = (
        compiled("c", nodes=("c",), time_ns=1),
        compiled("end", nodes=("c", "relu"), time_ns=1, kind="kgen"),
    )
    view = engine_view(EngineLayers(layers, floors_ns={"c": 1_000.0}))
    assert [row.floor for row in view.rows] == ["≥ 1.00 µs", ""]


def test_nodes_that_only_quantize_are_named_only_where_they_are_alone() -> None:
    layers = (compiled("c", nodes=("c", *BETWEEN.nodes), time_ns=1), compiled("q", nodes=BETWEEN.nodes, time_ns=1))
    rows = engine_view(EngineLayers(layers, quantization=only(BETWEEN))).rows
    assert [(row.name, row.remark) for row in rows] == [
        ("c", ""),
        ("c/quantize + c/dequantize", "Q/DQ alone"),
    ]


def test_a_pair_at_an_input_has_nothing_to_be_fused_with() -> None:
    alone = compiled("q", nodes=("c/quantize",), time_ns=1)
    assert broken_pairs(EngineLayers((alone,), quantization=only(replace(BETWEEN, before="")))) == ()


def test_floors_are_those_of_the_operations_of_all_nodes_in_a_layer() -> None:
    layers = (compiled("a", nodes=("a", "b"), time_ns=9_000), compiled("c", nodes=("c",), time_ns=1))
    view = engine_view(EngineLayers(layers, floors_ns={"a": 1_000.0, "b": 500.0}))
    assert [row.floor for row in view.rows] == ["≥ 1.50 µs", ""]
    assert view.floors


def test_a_layer_of_very_many_nodes_names_the_first_of_them() -> None:
    nodes = tuple(f"n{number}" for number in range(300))
    [row] = engine_view(EngineLayers((compiled("all", nodes=nodes, time_ns=1),))).rows
    assert row.name == "n0 + n1 + n2 + n3 + n4 + n5 + n6 + n7 and 292 more"


def test_without_times_none_are_shown() -> None:
    view = engine_view(engine_layers(timed=False))
    assert not view.timed
    assert view.parts == view.slower == ()
    assert "The time of each layer was not taken." in view.sentences
    assert {row.time for row in view.rows} == {"—"}


def test_parts_are_ordered_by_their_time_and_those_that_int8_slows_are_listed() -> None:
    view = engine_view(engine_layers())
    longest = [max(part.int8_ns, part.float16_ns) for part in view.parts]
    assert longest == sorted(longest, reverse=True)
    assert len(view.parts) == 12
    assert [part.name for part in view.slower] == ["stage3.block3.conv1 + relu18"]
    assert view.slower[0].change == "0.925×"


def test_the_chart_has_two_bars_for_each_part_on_one_scale() -> None:
    parts = engine_view(engine_layers()).parts
    drawn = str(parts_chart(parts))
    assert drawn.count("<rect") == 2 * len(parts)
    assert (
        f'width="86%" height="9" class="{"reference" if parts[0].float16_ns > parts[0].int8_ns else "engine"}"' in drawn
    )


def test_what_an_engine_for_a_dla_left_to_the_gpu_is_named() -> None:
    layers = (compiled("a", nodes=("a",), time_ns=1), compiled("b", nodes=("b",), time_ns=1, kind="gemm"))
    on_dla = replace(layers[0], kind="DLA")
    view = engine_view(EngineLayers((on_dla, layers[1]), dla=True))
    assert view.sentences[-1] == "The engine was to run on a DLA; these layers fell back to the GPU: b."
    view = engine_view(EngineLayers((on_dla,), dla=True))
    assert view.sentences[-1] == "The engine was to run on a DLA; no product fell back to the GPU."


def test_the_pairs_of_a_network_are_found_with_their_neighbours() -> None:
    [pair] = quantization_of(product(quantized=True)).pairs
    assert pair == QuantizerPair(*PAIR, "", ("product",), splits=False)
    assert quantization_of(product(quantized=False)).pairs == ()


def test_pairs_of_weights_are_left_out() -> None:
    pair = [
        helper.make_node("QuantizeLinear", ["weights", "scale", "zero"], ["integers"], name="q"),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["rounded"], name="dq"),
    ]
    product_of_them = helper.make_node("MatMul", ["x", "rounded"], ["y"], name="product")
    assert quantization_of(network(*pair, product_of_them)) == Quantization(frozenset({"q", "dq"}), ())


@pytest.mark.parametrize(("behind", "splits"), [("Relu", True), ("Add", False)])
def test_a_pair_between_a_product_and_its_activation_is_told_from_others(behind: str, splits: bool) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["product"], name="product"),
        helper.make_node("QuantizeLinear", ["product", "scale", "zero"], ["integers"], name="q"),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["rounded"], name="dq"),
        helper.make_node(behind, ["rounded"] * (2 if behind == "Add" else 1), ["y"], name="behind"),
    ]
    [pair] = quantization_of(network(*nodes)).pairs
    assert pair == QuantizerPair("q", "dq", "product", ("behind",), splits=splits)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(BundleError, match=r"model\.onnx is not an ONNX model"):
        quantization_of(b"\xff\xff\xff")


def network(*nodes: onnx.NodeProto) -> bytes:
    """From x, [1, 4], to y, [1, 3], with the constants weights, scale and zero."""
    constants = [
        numpy_helper.from_array(np.array(1 / 3, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(np.ones((4, 3), np.float32), "weights"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 4), ("y", 3))]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], constants)
    return bytes(helper.make_model(graph).SerializeToString())
