"""What a recipe's template can see, what it cannot do, and what it says when it fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginewright.errors import RecipeError, UsageError
from enginewright.source import ScalarNode, parse_yaml, plain_value
from enginewright.target import Target
from enginewright.template import parse_settings, render

CPU = Target(target=1, name="cpu", summary="this computer", backend="onnxruntime", build="here", threads=2)


def rendered(text: str, *, settings=None, environment=None) -> str:
    return render(text, label="x.yaml", target=CPU, settings=settings or {}, environment=environment or {})


def fault(text: str, **scope) -> str:
    with pytest.raises(RecipeError) as caught:
        rendered(text, **scope)
    return str(caught.value)


def test_the_environment_the_target_and_the_settings_are_in_scope():
    text = "{{ env.ROOT }} {{ target.name }} {{ target.threads }} {{ width }}\n"
    assert rendered(text, settings={"width": 32}, environment={"ROOT": "/data"}) == "/data cpu 2 32\n"


def test_a_variable_that_is_not_set_can_have_a_default():
    assert rendered("{{ env.ROOT | default('here') }}") == "here"
    assert rendered("{{ width | default(16) }}") == "16"


def test_python_values_are_written_as_yaml():
    text = "{{ none }} {{ a }} {{ b }} {{ 1 > 2 }}"
    assert rendered(text, settings={"a": None, "b": True}) == "null null true false"


def test_newlines_are_kept_as_they_are():
    assert rendered("a\n{% if true %}\nb\n{% endif %}\n\n") == "a\n\nb\n\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\n{{ env.ROOT }}", "x.yaml:3: the template does not render: the environment variable ROOT is not set; "
         "set it, or write a default: {{ env.ROOT | default('') }}"),
        ("{{ target.sms }}", "x.yaml:1: the template does not render: a target has no 'sms'. "
         "It has: target, name, summary, backend, build, threads, channel_multiple, dla_cores, precision and cuda_graph."),
        ("\n{% for x in enf %}{% endfor %}", "x.yaml:2: the template does not render: 'enf' is not defined. "
         "Did you mean 'env'? Or give it with --set enf=..."),
        ("{{ 'a' + 1 }}", "x.yaml:1: the template does not render: TypeError: can only concatenate str (not \"int\") to str"),
        ("a\n{% if %}\n", "x.yaml:2: the template does not parse: Expected an expression, got 'end of statement block'"),
        ("a\n\n{{ 1 | defualt }}", "x.yaml:3: the template does not parse: No filter named 'defualt'."),
        ("{% macro m() %}\n{{ 1 // 0 }}\n{% endmacro %}\n{{ m() }}",
         "x.yaml:2: the template does not render: ZeroDivisionError: integer division or modulo by zero"),
    ],
)  # fmt: skip
def test_a_failure_names_the_line_of_the_template_and_the_way_out(text, expected):
    assert fault(text) == expected


@pytest.mark.parametrize(
    "statement", ["{% include 'a' %}", "{% import 'a' as b %}", "{% from 'a' import b %}", "{% extends 'a' %}"]
)
def test_a_recipe_cannot_read_another_file(statement):
    assert fault(f"a: 1\n{statement}\n") == (
        "x.yaml:2: a recipe stands alone: include, import and extends are not available in it"
    )


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "cycler.__init__.__globals__.os.system('true')",
        "env.update({'A': 'b'})",
        "target.update({'threads': 64})",
        "range(10000000)",
        "lipsum.__globals__",
    ],
)
def test_a_template_cannot_leave_the_sandbox_or_change_what_it_sees(expression):
    assert fault("{{ " + expression + " }}").startswith("x.yaml:1: the template does not render: ")


def test_the_environment_that_was_given_is_not_changed_and_the_real_one_not_seen(monkeypatch):
    monkeypatch.setenv("ENGINEWRIGHT_SECRET", "seen")
    assert rendered("{{ env.ENGINEWRIGHT_SECRET | default('unseen') }}") == "unseen"


def test_a_setting_that_the_template_does_not_use_is_an_error_with_the_nearest_that_it_does():
    with pytest.raises(UsageError) as caught:
        rendered("{{ width }} {{ env.A | default(1) }}", settings={"widht": 1})
    assert str(caught.value) == (
        "x.yaml does not use 'widht', which --set gives. Did you mean 'width'?\n"
        "  fix: correct the name, or write {{ widht }} in the recipe where the value belongs"
    )


def test_a_setting_in_a_branch_that_is_not_taken_is_used():
    assert rendered("{% if false %}{{ width }}{% endif %}", settings={"width": 1}) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1e-3", 0.001), ("true", True), ("null", None), ("", ""), ("no", "no"), ("'1'", "1"), ('"a\\tb"', "a\tb"),
     ("/data/a b", "/data/a b"), ("a=b", "a=b"), ("[1, 2]", "[1, 2]")],
)  # fmt: skip
def test_settings_are_yaml_scalars(text, value):
    assert parse_settings([f"x={text}"]) == {"x": value}


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["macs"], "--set takes name=value, got 'macs'"),
        (["a-b=1"], "--set takes name=value, got 'a-b=1'"),
        (["=1"], "--set takes name=value, got '=1'"),
        (["env=1"], "--set cannot give 'env': in a recipe it stands for the environment variables"),
        (["target=cpu"], "--set cannot give 'target': in a recipe it stands for the target"),
        (["a=1", "a=2"], "--set gives 'a' twice"),
        (["a='1"], "--set: the value '1 is not a quoted text"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(assignments, expected):
    with pytest.raises(UsageError) as caught:
        parse_settings(assignments)
    assert caught.value.message == expected


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_a_setting_reaches_the_recipe_with_its_value(value):
    document = parse_yaml(rendered("{{ x }}", settings={"x": value}), label="x.yaml")
    assert isinstance(document.root, ScalarNode)
    assert document.root.value() == value
    assert type(plain_value(document.root.text)) is type(value)
