"""A manifest is read whole or refused with the path to the fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.test_canonical import JSON
from tests.runtime.tiny_bundle import tiny_manifest

from enginewright_runtime.errors import ManifestError
from enginewright_runtime.manifest import EngineEntry, FileEntry, Manifest, parse_manifest

Document = dict[str, Any]


def full_document() -> Document:
    """A valid manifest with something of everything, as JSON."""
    entry = EngineEntry("a-1", "onnxruntime", "engines/a-1/engine", {"threads": 1}, {"machine": "x86_64"})
    files = {"engines/a-1/engine": FileEntry("a" * 64, 5), "model.onnx": FileEntry("b" * 64, 7)}
    manifest = Manifest(**{**vars(tiny_manifest()), "engines": (entry,), "files": files})
    document: Document = json.loads(manifest.to_bytes())
    return document


def put(*path: str | int, value: object) -> Callable[[Document], None]:
    """A change that sets the value at a path."""

    def change(document: Document) -> None:
        at: Any = document
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def test_what_is_written_reads_back_equal() -> None:
    document = full_document()
    assert parse_manifest(json.dumps(document).encode()).to_json() == document


def test_keys_of_a_newer_writer_are_kept() -> None:
    document = {**full_document(), "release": 7, "notes": {"by": ["ci"]}}
    manifest = parse_manifest(json.dumps(document).encode())
    assert manifest.extra == {"release": 7, "notes": {"by": ["ci"]}}
    assert manifest.to_json() == document


def test_a_sequence_number_is_read_and_an_older_manifest_has_none() -> None:
    document = full_document()
    assert "sequence" not in document
    assert parse_manifest(json.dumps(document).encode()).sequence == 0
    document["sequence"] = 7
    manifest = parse_manifest(json.dumps(document).encode())
    assert (manifest.sequence, manifest.extra, manifest.to_json()) == (7, {}, document)


@pytest.mark.parametrize("key", list(full_document()))
def test_every_key_must_be_there(key: str) -> None:
    document = full_document()
    del document[key]
    with pytest.raises(ManifestError, match=f"manifest.json: lacks the key '{key}'"):
        parse_manifest(json.dumps(document).encode())


FAULTS: list[tuple[Callable[[Document], None], str]] = [
    (put("format", value=2), "format 2 is newer than this runtime reads"),
    (put("format", value=0), "format must be at least 1, got 0"),
    (put("format", value=True), "format must be a whole number, got True"),
    (put("sequence", value=-1), "sequence must be at least 0, got -1"),
    (put("sequence", value="7"), "sequence must be a whole number, got '7'"),
    (put("sequence", value=1 << 63), "sequence must be at most 9223372036854775807"),
    (put("name", value="../signs"), "name must be a plain name, got '../signs'"),
    (put("name", value=None), "name must be text, got None"),
    (put("target", value="a" * 101), "target must be at most 100 characters long"),
    (put("inputs", value=[]), "inputs must not be empty"),
    (put("outputs", value={}), "outputs must be a list, got {}"),
    (put("inputs", 0, "shape", 1, value=-4), r"inputs\[0\].shape\[1\] must be at least 1, got -4"),
    (put("inputs", 0, "shape", 1, value=4.0), r"inputs\[0\].shape\[1\] must be a whole number, got 4.0"),
    (put("inputs", 0, "shape", 0, value=""), r"inputs\[0\].shape\[0\] must be one line of text"),
    (put("inputs", 0, "shape", value=[1] * 33), r"inputs\[0\].shape must have at most 32 dimensions"),
    (
        put("inputs", 0, "dtype", value="object"),
        r"inputs\[0\].dtype must be a numpy dtype such as float32, got 'object'",
    ),
    (put("outputs", 0, "name", value="a\nb"), r"outputs\[0\].name must be one line of text"),
    (put("budget", "latency_p99_ms", value="4"), r"budget\['latency_p99_ms'\] must be a number, got '4'"),
    (put("budget", "latency_p99_ms", value=10**400), r"budget\['latency_p99_ms'\] must fit a double"),
    (put("versions", "onnx", value=1), r"versions\['onnx'\] must be text, got 1"),
    (put("files", "model.onnx", "sha256", value="b" * 63), "must be 64 lower-case hexadecimal digits"),
    (put("files", "model.onnx", "sha256", value="B" * 64), "must be 64 lower-case hexadecimal digits"),
    (put("files", "model.onnx", "size", value=-1), r"files\['model.onnx'\].size must be at least 0, got -1"),
    (put("files", "/etc/passwd", value={"sha256": "b" * 64, "size": 1}), "files: the path must be a plain relative"),
    (put("files", "a/../b", value={"sha256": "b" * 64, "size": 1}), "files: the path must be a plain relative"),
    (put("files", "manifest.json", value={"sha256": "b" * 64, "size": 1}), "cannot list itself"),
    (put("engines", 0, "path", value="engines/other"), r"engines\[0\].path 'engines/other' is not among the files"),
    (put("engines", 0, "path", value="C:\\engine"), r"engines\[0\].path: the path must be a plain relative path"),
    (put("engines", 0, "fingerprint", value="a b"), r"engines\[0\].fingerprint must be a plain name, got 'a b'"),
    (put("engines", 0, "settings", value=[]), r"engines\[0\].settings must be an object, got \[\]"),
    (put("engines", 0, "requires", value={"a": 1}), r"engines\[0\].requires\['a'\] must be text, got 1"),
    (put("steps", 0, "key", value="short"), r"steps\[0\].key must be 64 lower-case hexadecimal digits, got 'short'"),
    (lambda document: document["engines"].append(document["engines"][0]), "two engines have the fingerprint 'a-1'"),
    (lambda document: document["inputs"].append(document["inputs"][0]), "inputs must not hold one name twice"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_fault_is_refused_with_its_path_and_rule(change: Callable[[Document], None], message: str) -> None:
    document = full_document()
    change(document)
    with pytest.raises(ManifestError, match=message) as caught:
        parse_manifest(json.dumps(document).encode())
    assert caught.value.message.startswith("manifest.json: ")


def test_a_huge_manifest_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ManifestError, match="4194305 bytes, and 4194304 is the most"):
        parse_manifest(b" " * 4194305)


def test_a_newer_format_is_refused_before_its_other_keys_are_looked_at() -> None:
    with pytest.raises(ManifestError, match="format 9 is newer") as caught:
        parse_manifest(b'{"format": 9, "anything": "else"}')
    assert caught.value.hint == "pip install --upgrade enginewright-runtime"


def test_a_value_that_is_shown_is_cut_short() -> None:
    document = {**full_document(), "budget": "x" * 10_000}
    with pytest.raises(ManifestError) as caught:
        parse_manifest(json.dumps(document).encode())
    assert len(caught.value.message) < 120


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_value_anywhere_is_read_or_refused_and_never_a_crash(data: st.DataObject) -> None:
    document = full_document()
    at: Any = document
    for _ in range(data.draw(st.integers(0, 4))):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys or not isinstance(at[key := data.draw(st.sampled_from(keys))], (dict, list)):
            break
        at = at[key]
    keys = list(at) if isinstance(at, dict) else list(range(len(at)))
    if keys:
        at[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    try:
        manifest = parse_manifest(json.dumps(document).encode())
    except ManifestError:
        return
    assert parse_manifest(manifest.to_bytes()) == manifest


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_never_a_crash(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_manifest_with_any_of_its_bytes_changed_is_read_or_refused_and_never_a_crash(data: st.DataObject) -> None:
    raw = json.dumps(full_document()).encode()
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(begin, min(len(raw), begin + 20)))
        raw = raw[:begin] + data.draw(st.one_of(st.binary(max_size=8), st.sampled_from(PIECES))) + raw[end:]
    try:
        manifest = parse_manifest(raw)
    except ManifestError:
        return
    assert parse_manifest(manifest.to_bytes()) == manifest


PIECES = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"1" * 5000,
    b'"',
    b"\\",
    b"\\ud800",
    b"\xff",
    b"[" * 100,
    b"null",
    b"{}",
]
