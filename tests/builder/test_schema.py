"""The JSON Schema that comes out of the dataclasses accepts what the reader accepts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from enginewright.compression import Calibration, Prune
from enginewright.errors import RecipeError
from enginewright.reader import parse
from enginewright.recipe import Recipe
from enginewright.schema import RULE, Rule, json_schema
from enginewright.source import MappingNode, Node, SequenceNode, parse_yaml
from enginewright.target import Target

ROOT = Path(__file__).parents[2]
WRONG_RECIPES = sorted((ROOT / "tests/golden/errors/recipes").glob("*.yaml"))

# Wrong recipes that a JSON Schema cannot refuse: rules across keys, of the file's name, of YAML and of the template.
BEYOND_A_SCHEMA = {
    "accuracy_drop_without_auto",
    "alias_of_itself",
    "aliases_that_multiply",
    "distill_after_prune",
    "doubled_key",
    "empty_file",
    "factorize_by_neither",
    "factory_and_onnx",
    "factory_without_weights",
    "infinite_argument",
    "labels_without_labels",
    "merge_key",
    "name_is_not_the_files",
    "neither_factory_nor_onnx",
    "only_a_comment",
    "onnx_cannot_be_trained",
    "onnx_with_weights",
    "prune_blocks_by_both",
    "prune_rounds_without_recovery",
    "quantize_is_not_last",
    "quantize_twice",
    "quantized_recovery_without_quantize",
    "recovery_between_one_round",
    "rendering_keeps_lines",
    "rendering_moves_lines",
    "sparsify_before_prune",
    "syntax_error",
    "tab_for_spaces",
    "tag",
    "target_is_not_listed",
    "template_breaks_out",
    "template_does_not_compute",
    "template_does_not_parse",
    "template_name_is_not_defined",
    "template_reaches_out",
    "template_target_has_no_field",
    "template_variable_is_not_set",
    "two_documents",
}


def plain(node: Node) -> Any:
    """A node as an editor sees it."""
    if isinstance(node, MappingNode):
        return {entry.key: plain(entry.value) for entry in node.entries}
    return [plain(item) for item in node.items] if isinstance(node, SequenceNode) else node.value()


def objects_in(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for item in schema for found in objects_in(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if "properties" in schema else []
    return own + [found for value in schema.values() for found in objects_in(value)]


@pytest.mark.parametrize("cls", [Recipe, Target])
def test_the_schema_is_a_valid_json_schema_of_2020_12(cls):
    schema = json_schema(cls)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("cls", [Recipe, Target])
def test_every_mapping_of_the_schema_refuses_unknown_keys_and_describes_its_own(cls):
    objects = objects_in(json_schema(cls))
    assert objects
    for schema in objects:
        assert schema["additionalProperties"] is False
        assert all("description" in value or "$ref" in value for value in schema["properties"].values())


def test_limits_defaults_units_and_choices_of_a_key_reach_the_schema():
    prune = json_schema(Recipe)["$defs"]["Prune"]["properties"]
    assert prune["macs"] == {
        "description": "share of the multiply-accumulates to remove",
        "type": "number",
        "minimum": 0.05,
        "maximum": 0.95,
    }
    assert prune["importance"]["enum"][:2] == ["taylor", "magnitude"]
    assert prune["importance"]["default"] == "taylor"
    assert "(samples)" in prune["samples"]["description"]
    assert json_schema(Recipe)["$defs"]["Budget"]["properties"]["size_mib"]["exclusiveMinimum"] == 0


def test_only_keys_without_a_default_are_required():
    assert json_schema(Recipe)["$defs"]["Prune"]["required"] == ["macs"]
    assert json_schema(Target)["required"] == ["target", "name", "backend", "build"]


@pytest.mark.parametrize("wrong", WRONG_RECIPES, ids=lambda path: path.stem)
def test_the_schema_refuses_what_a_schema_can_refuse(wrong):
    root = parse_yaml(wrong.read_text(), label=wrong.name).root
    refused = root is None or not Draft202012Validator(json_schema(Recipe)).is_valid(plain(root))
    beyond = wrong.stem in BEYOND_A_SCHEMA
    assert refused or beyond
    if root is not None and not wrong.stem.startswith("template"):
        assert refused is not beyond


@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-200, 200), st.booleans(), st.text()))
def test_reader_and_schema_agree_on_every_value_of_a_number(value):
    check_agreement("macs", Prune, {}, value)


@given(st.one_of(st.integers(), st.booleans(), st.text(), st.sampled_from([7.5, 1e6, 0.0])))
def test_reader_and_schema_agree_on_every_value_of_a_whole_number(value):
    check_agreement("samples", Calibration, {}, value)


def check_agreement(key: str, cls: type, others: dict[str, Any], value: Any) -> None:
    schema = json_schema(cls)
    accepted = Draft202012Validator(schema).is_valid({key: value, **others})
    if isinstance(value, float) and value.is_integer() and schema["properties"][key]["type"] == "integer":
        return  # 7.0 is a whole number to JSON Schema; YAML tells it from 7, and so does the reader
    written = (
        f'"{value.encode("unicode_escape").decode().replace(chr(34), "_")}"' if isinstance(value, str) else str(value)
    )
    try:
        parse(cls, parse_yaml(f"{key}: {written}", label="x.yaml"), error=RecipeError)
    except RecipeError:
        assert not accepted
    else:
        assert accepted


def test_a_field_without_a_rule_is_not_a_key():
    @dataclass(frozen=True)
    class Settings:
        written: int = field(metadata={RULE: Rule("a number")})
        found: str = ""

    assert list(json_schema(Settings)["properties"]) == ["written"]
