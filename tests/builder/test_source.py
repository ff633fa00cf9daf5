"""YAML to nodes with lines, and what of YAML is not accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginewright.errors import RecipeError
from enginewright.source import parse_yaml, plain_value, read_text, shown


def fault(text: str, *, written: str | None = None) -> str:
    document = parse_yaml(text, label="x.yaml", written=written)
    return "\n".join(str(problem) for problem in document.problems)


def test_a_doubled_key_is_told_with_both_lines_and_the_rest_is_still_read():
    document = parse_yaml("a: 1\nb: 2\na: 3\n", label="x.yaml")
    assert [str(problem) for problem in document.problems] == [
        "x.yaml:3: the key 'a' is here a second time; the first is on line 1"
    ]
    assert [entry.key for entry in document.root.entries] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "--- # nothing\n"])
def test_an_empty_file_is_called_empty(text):
    assert fault(text) == "x.yaml:1: the file is empty"


def test_aliases_are_followed():
    document = parse_yaml("a: &x [1, 2]\nb: *x\n", label="x.yaml")
    first, second = document.root.entries
    assert first.value == second.value


def test_a_billion_laughs_are_refused_without_building_them():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    assert fault("\n".join(lines)) == "x.yaml:5: more than 20000 values, aliases written out"


def test_nesting_has_a_limit():
    assert fault("[" * 500 + "]" * 500) == "x.yaml:1: nested more than 50 levels deep, aliases written out"
    assert fault("[" * 50 + "]" * 50) == ""


def test_aliases_cannot_nest_deeper_than_the_limit():
    rungs = [f"a{rung}: &a{rung} [[[[[[[[[[*a{rung - 1}]]]]]]]]]]" for rung in range(1, 40)]
    text = "\n".join(["a0: &a0 x", *rungs])
    assert fault(text) == "x.yaml:6: nested more than 50 levels deep, aliases written out"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/name:os.system x", "x.yaml:1: tags are not accepted: tag:yaml.org,2002:python/name:os.system"),
        ("a: 1\n? [b]\n: 2\n", "x.yaml:2: a key must be plain text, got a list or a mapping"),
        ("a: 1\nb: \x07\n", "x.yaml:2: not YAML: the character U+0007 is not allowed"),
        ("a: 'x\n", "x.yaml:1: not YAML: found unexpected end of stream while scanning a quoted scalar"),
    ],
)
def test_what_is_not_accepted_is_said_with_its_line(text, expected):
    assert fault(text) == expected


def test_lines_are_the_users_while_rendering_keeps_their_number():
    assert fault("a: 1\na: 2\n", written="a: {{ x }}\na: 2\n").startswith("x.yaml:2: ")


def test_lines_are_called_rendered_and_quoted_where_rendering_changed_their_number():
    assert fault("a: 1\n\n  \na: 2\n", written="{% for %}\n") == (
        "x.yaml (rendered):4: the key 'a' is here a second time; the first is on line 1 (the line reads: a: 2)"
    )


def test_a_file_that_is_not_utf_8_is_refused_with_the_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(RecipeError) as caught:
        read_text(tmp_path / "x.yaml", error=RecipeError)
    assert str(caught.value) == "x.yaml:2: not UTF-8: invalid start byte\n  fix: save the file as UTF-8"


def test_a_file_that_is_not_there_is_told_without_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        read_text(tmp_path / "x.yaml", error=RecipeError)
    assert str(caught.value) == "x.yaml: cannot be read: No such file or directory"


def test_a_file_outside_the_working_folder_is_shown_with_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert shown(tmp_path / "x.yaml") == str(tmp_path / "x.yaml")
    assert shown(tmp_path / "inside/x.yaml") == "x.yaml"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read_back(number):
    assert plain_value(repr(number)) == number


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail_in_a_way_that_nobody_foresaw(text):
    document = parse_yaml(text, label="x.yaml")
    assert (document.root is None) <= bool(document.problems)
