"""Two engines of one network, compared by the nodes that their layers hold."""

from __future__ import annotations

from typing import Any

from enginewright_runtime.tensorrt.comparison import Part, compare
from enginewright_runtime.tensorrt.engine_layers import EngineLayer


def layer(*nodes: str, us: int = 0, precision: str = "int8", **told: Any) -> EngineLayer:
    name = told.pop("name", " + ".join(nodes))
    return EngineLayer(name, "", nodes, precision, precision, told.pop("reformat", False), True, us * 1000)


def test_layers_that_were_fused_otherwise_are_compared_as_one_part() -> None:
    int8 = [layer("a", us=5), layer("b", "c", us=3), layer("d", us=1)]
    float16 = [layer("a", "b", us=6), layer("c", us=1), layer("d", us=4)]
    found = compare(int8, float16, wanted=())
    assert found.parts == (Part(("a", "b", "c"), 8_000, 7_000), Part(("d",), 1_000, 4_000))
    assert [part.nodes for part in found.to_blame] == [("a", "b", "c")]
    assert (found.int8_ns, found.float16_ns) == (9_000, 11_000)


def test_what_only_moves_data_counts_by_itself_and_not_in_a_part() -> None:
    moved = layer("a", us=4, name="Reformatting CopyNode for Input Tensor 0 to a", reformat=True)
    found = compare([moved, layer("a", us=1)], [layer("a", us=2)], wanted=())
    assert (found.reformats, found.reformat_ns) == ((moved.name,), 4_000)
    assert found.parts == (Part(("a",), 1_000, 2_000),)
    assert found.lines() == ["layers that only reformat: 1, 4.0 us; in float16 0.0 us"]


def test_a_pair_that_stands_alone_broke_a_fusion_and_a_fused_one_did_not() -> None:
    int8 = [layer("x/quantize", us=2), layer("y/dequantize", "a", us=1), layer("QuantizeLinear_7"), layer("quantizer")]
    assert compare(int8, [layer("a", us=3)], wanted=()).alone == ("x/quantize", "QuantizeLinear_7")


def test_a_node_that_the_network_wants_in_int8_and_the_engine_has_not_is_a_fallback() -> None:
    int8 = [layer("a"), layer("b", precision="float16")]
    found = compare(int8, [], wanted=("a", "b", "gone"))
    assert found.fallbacks == ("b",)  # of a node that is in no layer nothing is known
    assert found.lines() == ["not in int8, though the network asks for it: b"]


def test_an_engine_that_loses_nowhere_blames_nobody() -> None:
    assert compare([layer("a", us=1)], [layer("a", us=2)], wanted=("a",)).lines() == []


def test_layers_that_were_not_timed_count_as_nothing() -> None:
    untimed = EngineLayer("a", "", ("a",), "int8", "int8", False, True)
    assert compare([untimed], [layer("a", us=2)], wanted=()).parts == (Part(("a",), 0, 2_000),)
