"""One byte string for one value, and no JSON that means two things."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginewright_runtime.canonical import Json, canonical_bytes, sha256_file, sha256_hex, strict_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aé\n"\\', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_is_written_reads_back_equal(value: Json) -> None:
    assert strict_json(canonical_bytes(value)) == value


def test_the_order_of_keys_and_the_kind_of_mapping_do_not_matter() -> None:
    expected = b'{"a":[1,2],"b":{}}'
    assert canonical_bytes({"b": {}, "a": [1, 2]}) == expected
    assert canonical_bytes(MappingProxyType({"a": (1, 2), "b": MappingProxyType({})})) == expected


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a": [float("nan")]}, ValueError, r"\$\.a\[0\]: JSON has no nan"),
        ({"a": float("inf")}, ValueError, r"\$\.a: JSON has no inf"),
        ({1: "a"}, TypeError, r"\$: a JSON key is text, got 1 \(int\)"),
        ({"a": {1, 2}}, TypeError, r"\$\.a: set is not JSON"),
        ({"a": b"x"}, TypeError, r"\$\.a: bytes is not JSON"),
        ("\ud800", ValueError, "surrogates"),
    ],
)
def test_what_json_lacks_is_refused_with_its_place(value: Json, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        canonical_bytes(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 1}', "the key 'a' stands twice"),
        (b"[NaN]", "JSON has no NaN"),
        (b"[-Infinity]", "JSON has no -Infinity"),
        (b"[1e999]", "the number 1e999 is too large"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 levels deep"),
        (b"[" * 200_000 + b"]" * 200_000, "nested more than 64 levels deep"),
        (b'{"a":' * 200_000, "nested more than 64 levels deep"),
        (b'"\xff"', "not UTF-8: invalid start byte at byte 1"),
        (b'["\\ud800"]', "half of a character that takes two escapes"),
        (b'{"\\uDFff": 1}', "half of a character that takes two escapes"),
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"1 2", "Extra data"),
        (b"9" * 5000, "digits"),
    ],
)
def test_json_that_somebody_else_wrote_is_refused_with_what_is_wrong(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strict_json(text)


def test_64_levels_are_read() -> None:
    assert strict_json(b"[" * 64 + b"]" * 64)
    assert strict_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_digests_are_sha256_of_the_content(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "data").write_bytes(data)
    assert sha256_hex(data) == sha256_file(tmp_path / "data") == hashlib.sha256(data).hexdigest()
