"""What a bundle keeps of its build's report comes back as it was, or is refused with the place at fault."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from tests.builder.report.report_cases import CASES, signs

from enginewright.report.data import ReportData
from enginewright.report.stored import FORMAT, report_from_bytes, report_to_bytes
from enginewright_runtime.errors import BundleError


def stored(data: ReportData) -> ReportData:
    """As it comes back: what the bundle holds elsewhere is not in it."""
    return replace(data, latency=None, latency_evicted=None, engine_layers=None, devices=())


@pytest.mark.parametrize("case", [name for name in CASES if name != "hostile"])
def test_everything_but_what_the_bundle_holds_elsewhere_comes_back(case: str) -> None:
    data = CASES[case]()
    assert report_from_bytes(report_to_bytes(data)) == stored(data)


def test_names_that_no_file_can_hold_are_stored_with_a_mark() -> None:
    back = report_from_bytes(report_to_bytes(CASES["hostile"]()))
    assert back.steps[0].summary.endswith("\x00\N{REPLACEMENT CHARACTER}")
    assert report_to_bytes(back) == report_to_bytes(CASES["hostile"]())


def test_the_raw_latencies_are_not_stored_twice() -> None:
    assert "latency" not in json.loads(report_to_bytes(signs()))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("name",), 7, "report.json: name must be text, got 7"),
        (("verdict",), "MAYBE", "report.json: verdict must be one of PASS, FAIL, INCONCLUSIVE, PENDING, got 'MAYBE'"),
        (("steps", 0, "seconds"), "long", "report.json: steps[0].seconds must be a number, got 'long'"),
        (("engine", "evaluation", "interval"), [0.5], "engine.evaluation.interval must be a list of 2, got [0.5]"),
        (("engine", "layers"), None, "report.json: engine.layers must be a list, got None"),
        (("format",), FORMAT + 1, f"format {FORMAT + 1} is newer than this enginewright reads (format {FORMAT})"),
    ],
)
def test_what_breaks_the_format_is_refused_with_its_place(path: tuple[Any, ...], value: Any, message: str) -> None:
    found = json.loads(report_to_bytes(signs()))
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BundleError, match=re.escape(message)):
        report_from_bytes(json.dumps(found).encode())


def test_what_lacks_a_key_is_refused() -> None:
    found = json.loads(report_to_bytes(signs()))
    del found["engine"]["size_bytes"]
    with pytest.raises(BundleError, match=r"report\.json: engine lacks the key 'size_bytes'"):
        report_from_bytes(json.dumps(found).encode())


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(BundleError, match=r"b\.ewb: report\.json: not valid JSON"):
        report_from_bytes(b"{", source="b.ewb: report.json")
