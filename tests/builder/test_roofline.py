"""Roofline floors: from operations, bytes and rates, and never more than what is known."""

from __future__ import annotations

from typing import Any

import pytest

from enginewright.roofline import Rates, floors, floors_to_json

ORIN = Rates(int8_tops=85, float16_tflops=42.5, bandwidth_gb_s=204.8)


def layer(**changed: Any) -> dict[str, Any]:
    return {
        "name": "conv",
        "precision": "int8",
        "macs": 10**9,
        "weights": 1000,
        "output_shape": [1, 16, 8, 8],
        **changed,
    }


def test_an_operation_is_half_a_mac_and_float16_takes_twice_as_long() -> None:
    [integer], [half] = floors([layer()], ORIN), floors([layer(precision="float32")], ORIN)
    assert integer.compute_ns == pytest.approx(2e9 / 85e12 * 1e9)
    assert half.compute_ns == pytest.approx(2 * (integer.compute_ns or 0))
    assert (integer.precision, half.precision) == ("int8", "float16")


def test_bytes_are_the_weights_and_the_outputs_in_their_precision() -> None:
    [floor] = floors([layer(macs=0)], ORIN)
    assert floor.memory_ns == pytest.approx((1000 + 16 * 64) / 204.8)
    assert floor.bound == "memory"


def test_the_larger_of_both_is_the_floor() -> None:
    for macs, bound in ((10**9, "compute"), (1, "memory")):
        [floor] = floors([layer(macs=macs)], ORIN)
        assert floor.bound == bound
        assert floor.least_ns == max(floor.compute_ns or 0, floor.memory_ns or 0)


def test_without_rates_there_is_no_floor() -> None:
    found = floors([layer()], Rates(None, None, None))
    table = floors_to_json(found)
    assert found[0].bound == ""
    assert table["total_floor_ns"] is None
    assert table["layers"][0]["compute_floor_ns"] is None


def test_with_the_bandwidth_alone_the_floor_is_that_of_the_memory() -> None:
    [floor] = floors([layer()], Rates(None, None, 273))
    assert (floor.compute_ns, floor.bound) == (None, "memory")


def test_precisions_compare_only_where_both_rates_are_known() -> None:
    assert ORIN.compares_precisions
    assert not Rates(85, None, 204.8).compares_precisions
