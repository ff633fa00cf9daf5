"""Reading YAML into dataclasses: values, and every problem with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from enginewright.errors import TargetError
from enginewright.reader import parse
from enginewright.schema import RULE, Check, Fault, Json, Rule
from enginewright.source import parse_yaml


def _must_differ(low: float, high: float) -> Iterator[Fault]:
    if low == high:
        yield Fault(("high",), "must differ from low")


@dataclass(frozen=True, kw_only=True)
class Range:
    low: float = field(metadata={RULE: Rule("lowest", minimum=0)})
    high: float = field(default=1.0, metadata={RULE: Rule("highest")})

    CHECKS: ClassVar[tuple[Check, ...]] = (Check(("low", "high"), _must_differ),)


@dataclass(frozen=True, kw_only=True)
class Cut:
    KEY: ClassVar[str] = "cut"
    share: float = field(default=0.5, metadata={RULE: Rule("share", minimum=0, maximum=1)})


@dataclass(frozen=True, kw_only=True)
class Paint:
    KEY: ClassVar[str] = "paint"
    colour: Literal["red", "blue"] = field(metadata={RULE: Rule("colour")})


@dataclass(frozen=True, kw_only=True)
class Thing:
    name: str = field(default="", metadata={RULE: Rule("name", pattern="[a-z ]+", words="small letters")})
    number: float = field(default=0.0, metadata={RULE: Rule("number")})
    count: int = field(default=0, metadata={RULE: Rule("count", minimum=0)})
    flag: bool = field(default=False, metadata={RULE: Rule("flag")})
    size: tuple[int | str, ...] = field(default=(), metadata={RULE: Rule("size", minimum=1, unique=True)})
    ranges: Mapping[str, Range] = field(default_factory=dict, metadata={RULE: Rule("ranges")})
    steps: tuple[Cut | Paint, ...] = field(default=(), metadata={RULE: Rule("steps")})
    extra: Mapping[str, Json] = field(default_factory=dict, metadata={RULE: Rule("anything")})
    either: Literal["auto"] | Range = field(default="auto", metadata={RULE: Rule("either")})


def read(text: str) -> Thing:
    return parse(Thing, parse_yaml(text, label="x.yaml"), error=TargetError)


def problems(text: str) -> list[str]:
    with pytest.raises(TargetError) as caught:
        read(text)
    return [str(problem).removeprefix("x.yaml:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("4", 4.0),
        ("+1.", 1.0),
        ("0x10", 16.0),
        ("0o17", 15.0),
        ("012", 12.0),
    ],
)
def test_a_number_may_be_written_in_any_way_of_yaml_1_2(written, value):
    number = read(f"number: {written}").number
    assert number == value
    assert isinstance(number, float)


@pytest.mark.parametrize("written", ["true", "yes", "'4'", "1_000", "1:30", "1e-3x", "nan", "", "[]", "9" * 200])
def test_what_is_no_number_is_refused_where_a_number_is_wanted(written):
    (problem,) = problems(f"number: {written}")
    assert problem.startswith("1: number must be a number, got ")


@pytest.mark.parametrize("written", [".nan", ".inf", "-.inf", "1e999"])
def test_a_number_must_be_finite(written):
    assert problems(f"number: {written}") == [f"1: number must be finite, got {written}"]


@pytest.mark.parametrize("written", ["4.0", "1e3", "4.5"])
def test_a_fraction_is_refused_where_a_whole_number_is_wanted(written):
    assert problems(f"count: {written}") == [f"1: count must be a whole number, at least 0, got {written}"]


def test_words_that_yaml_1_1_takes_for_booleans_are_text():
    assert read("name: no").name == "no"
    assert read("size: [n, y]").size == ("n", "y")
    assert problems("flag: no") == ["1: flag must be true or false, got 'no'"]
    assert read("flag: true").flag is True


def test_free_values_keep_their_types():
    assert read("extra: {a: 1, b: 1e-3, c: [true, null, 'x'], d: {e: '1'}, f: }").extra == {
        "a": 1,
        "b": 0.001,
        "c": [True, None, "x"],
        "d": {"e": "1"},
        "f": None,
    }


def test_a_union_of_a_choice_and_a_mapping_takes_either():
    assert read("either: auto").either == "auto"
    assert read("either: {low: 0.5}").either == Range(low=0.5)
    assert problems("either: manual") == ["1: either must be auto or a mapping, got 'manual'"]


def test_a_step_is_a_mapping_with_the_key_of_its_kind():
    assert read("steps: [{cut: {}}, {paint: {colour: red}}]").steps == (Cut(), Paint(colour="red"))


def test_every_problem_is_reported_at_the_line_of_its_key_in_the_order_of_lines():
    text = "count: -1\nranges:\n  first: {low: 1}\n  second:\n    low: -1\n    hihg: 2\nsteps:\n  - cut:\n      share: 2\n  - cut: {}\n"
    assert problems(text) == [
        "1: count must be at least 0, got -1",
        "3: ranges.first.high must differ from low",
        "5: ranges.second.low must be at least 0, got -1",
        "6: unknown key 'hihg' in ranges.second. Did you mean 'high'?",
        "9: steps[0].cut.share must be between 0 and 1, got 2",
    ]


def test_a_rule_across_keys_waits_until_its_keys_are_valid():
    assert problems("ranges: {a: {low: -1, high: -1}}") == ["1: ranges.a.low must be at least 0, got -1"]


def test_an_unknown_key_without_a_near_one_lists_the_known():
    assert problems("either: {low: 0.5, zzz: 1}") == [
        "1: unknown key 'zzz' in either. The keys here are: low and high."
    ]


def test_a_misspelt_key_is_not_reported_as_missing_too():
    assert problems("either: {lwo: 2}") == ["1: unknown key 'lwo' in either. Did you mean 'low'?"]


def test_a_list_that_must_not_repeat_names_what_it_repeats():
    assert problems("size: [3, n, n]") == ["1: size[2] repeats 'n'"]
