"""Bundles that somebody made who knows the format and has no good in mind: each digest is right where it can be.

Each is offered to the installer of a root that has a good one. It is refused with its own message, the good one stays
current, and nothing is written outside the root. tests/runtime/test_bundle.py has those that break the format itself.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.runtime.installation.bundles import everything, passes
from tests.runtime.test_bundle import deep, packed
from tests.runtime.test_manifest import put
from tests.runtime.tiny_bundle import make_bundle

from enginewright_runtime.bundle import read_bundle, sign_bundle
from enginewright_runtime.canonical import sha256_hex
from enginewright_runtime.errors import BundleError, EnginewrightError, NoEngineFits, SelfTestFailed
from enginewright_runtime.golden import golden_from_bytes
from enginewright_runtime.installation import install, installing, read_installed
from enginewright_runtime.signing import make_keys, sign

Document = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """A good bundle in pieces, to make bad ones of."""

    document: Document
    files: Mapping[str, bytes]
    engine: str

    def sealed(self, **files: bytes | None) -> bytes:
        """The same manifest over other files; the digest at the end is right. None leaves a file out."""
        changed = {**self.files, **{self.name(key): data for key, data in files.items()}}
        return self._packed({name: data for name, data in changed.items() if data is not None}, self.document)

    def honest(self, change: Callable[[Document], object] = lambda document: None, **files: bytes) -> bytes:
        """Other files, and a manifest that has their digests, after a change."""
        changed = {**self.files, **{self.name(key): data for key, data in files.items()}}
        document: Document = json.loads(json.dumps(self.document))
        document["files"] = {name: {"sha256": sha256_hex(data), "size": len(data)} for name, data in changed.items()}
        change(document)
        return self._packed(changed, document)

    def raw(self, manifest: bytes) -> bytes:
        """The good files under these bytes for a manifest."""
        return packed([("manifest.json", manifest), *sorted(self.files.items())])

    def name(self, key: str) -> str:
        """A file by a short key."""
        return {"engine": self.engine, "golden": "golden.npz", "model": "model.onnx"}.get(key, key)

    def _packed(self, files: Mapping[str, bytes], document: Document) -> bytes:
        return packed([("manifest.json", json.dumps(document).encode()), *sorted(files.items())])


def flipped(data: bytes) -> bytes:
    """As long, and one bit another."""
    return data[:-1] + bytes([data[-1] ^ 1])


def npz(**members: bytes) -> bytes:
    """A file that claims to be one of numpy arrays."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def npy(header: bytes, data: bytes = b"") -> bytes:
    """One array with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def bomb() -> bytes:
    """A few kilobytes that unpack to two gigabytes of zeros: the sizes are in the zip's own directory."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("input.x.npy", bytes(1 << 20))
    data = bytearray(stream.getvalue())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = ((1 << 31) - 1).to_bytes(4, "little")
    return bytes(data)


def pickled() -> bytes:
    """An array of Python objects, whose reader would run what they say."""
    stream = io.BytesIO()
    np.savez(stream, **{"input.x": np.array([{"a": 1}], dtype=object)})
    return stream.getvalue()


def reads_a_file(path: str) -> bytes:
    """A network that takes its weights from a file of the machine that opens it."""
    weights = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=path)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "thief",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


FILES = ("engine", "golden", "model")
DIFFERS = "does not match its digest in the manifest"

ATTACKS: dict[str, tuple[Callable[[Parts], bytes], type[EnginewrightError], str]] = {
    **{
        f"{key} altered": (
            lambda parts, key=key: parts.sealed(**{key: flipped(parts.files[parts.name(key)])}),
            BundleError,
            DIFFERS,
        )  # type: ignore[misc]
        for key in FILES
    },
    **{
        f"{key} missing": (lambda parts, key=key: parts.sealed(**{key: None}), BundleError, "is missing")  # type: ignore[misc]
        for key in FILES
    },
    **{
        f"{key} emptied": (
            lambda parts, key=key: parts.sealed(**{key: b""}),
            BundleError,
            "has 0 bytes, and the manifest",
        )  # type: ignore[misc]
        for key in FILES
    },
    **{
        f"{key} replaced by {other}": (
            lambda parts, key=key, other=other: parts.sealed(**{key: parts.files[parts.name(other)]}),  # type: ignore[misc]
            BundleError,
            r"has \d+ bytes, and the manifest says",
        )
        for key, other in zip(FILES, (*FILES[1:], FILES[0]), strict=True)
    },
    "a file that no manifest lists": (
        lambda parts: parts.sealed(**{"setup.sh": b"#!/bin/sh"}),
        BundleError,
        r"the file setup.sh is in it, and its manifest does not list it",
    ),
    "a file twice": (
        lambda parts: packed(
            [("manifest.json", json.dumps(parts.document).encode()), *sorted([*parts.files.items()] * 2)]
        ),
        BundleError,
        "is in it twice",
    ),
    "an absolute path": (
        lambda parts: parts.honest(**{"/etc/cron.d/evil": b""}),
        BundleError,
        "'/etc/cron.d/evil' is not a plain relative path",
    ),
    "a parent path": (
        lambda parts: parts.honest(**{"../../slots/evil": b""}),
        BundleError,
        "'../../slots/evil' is not a plain relative path",
    ),
    "a newline in a name": (lambda parts: parts.honest(**{"a\nb": b""}), BundleError, r"'a\\nb' is not a plain"),
    "a name for a terminal": (
        lambda parts: parts.honest(**{"\x1b[2J": b""}),
        BundleError,
        r"'\\x1b\[2J' is not a plain",
    ),
    "a network's name that leaves the root": (
        lambda parts: parts.honest(put("name", value="../../etc")),
        BundleError,
        "name must be a plain name",
    ),
    "JSON of five megabytes": (
        lambda parts: parts.raw(json.dumps({**parts.document, "recipe": "x" * 5_000_000}).encode()),
        BundleError,
        "is the most that is read",
    ),
    "JSON a million levels deep": (lambda parts: parts.raw(deep(600_000)), BundleError, "nested more than 64 levels"),
    "JSON with a key twice": (
        lambda parts: parts.raw(b'{"format": 1, ' + json.dumps(parts.document).encode()[1:]),
        BundleError,
        "the key 'format' stands twice",
    ),
    "a manifest that is a list": (lambda parts: parts.raw(b"[]"), BundleError, "the document must be an object"),
    "a number of many digits": (
        lambda parts: parts.raw(json.dumps(parts.document).replace('"format": 1', '"format": 1' + "0" * 5000).encode()),
        BundleError,
        "not valid JSON|newer than this runtime reads",
    ),
    "a NaN shape": (
        lambda parts: parts.honest(put("inputs", 0, "shape", 1, value=float("nan"))),
        BundleError,
        "JSON has no NaN",
    ),
    "a negative shape": (
        lambda parts: parts.honest(put("inputs", 0, "shape", 1, value=-4)),
        BundleError,
        r"inputs\[0\].shape\[1\] must be at least 1",
    ),
    "a dtype that runs code": (
        lambda parts: parts.honest(put("inputs", 0, "dtype", value="O")),
        BundleError,
        "must be a numpy dtype such as float32, got 'O'",
    ),
    "an infinite budget": (
        lambda parts: parts.honest(put("budget", "latency_p99_ms", value=float("inf"))),
        BundleError,
        "JSON has no Infinity",
    ),
    "a budget that is text": (
        lambda parts: parts.honest(put("budget", "latency_p99_ms", value="1e9")),
        BundleError,
        r"budget\['latency_p99_ms'\] must be a number",
    ),
    "a negative sequence number": (
        lambda parts: parts.honest(put("sequence", value=-1)),
        BundleError,
        "sequence must be at least 0",
    ),
    "a manifest of a newer format": (
        lambda parts: parts.honest(put("format", value=99)),
        BundleError,
        "format 99 is newer than this runtime reads",
    ),
    "a digest of another length": (
        lambda parts: parts.honest(put("files", "model.onnx", "sha256", value="0" * 40)),
        BundleError,
        "must be 64 lower-case hexadecimal digits",
    ),
    "an engine outside the bundle": (
        lambda parts: parts.honest(put("engines", 0, "path", value="/usr/lib/evil.so")),
        BundleError,
        r"engines\[0\].path: the path must be a plain relative path",
    ),
    "an engine for another machine": (
        lambda parts: parts.honest(put("engines", 0, "requires", "machine", value="sparc")),
        NoEngineFits,
        "it was made for sparc",
    ),
    "an engine of an old version": (
        lambda parts: parts.honest(put("engines", 0, "requires", "onnxruntime", value="1.2.3")),
        NoEngineFits,
        "it needs onnxruntime 1.2.3",
    ),
    "an engine that needs what nobody knows": (
        lambda parts: parts.honest(put("engines", 0, "requires", "moon", value="full")),
        NoEngineFits,
        "it requires 'moon', which this runtime does not know",
    ),
    "a backend that is a module's name": (
        lambda parts: parts.honest(put("engines", 0, "backend", value="os.path")),
        NoEngineFits,
        "unknown backend 'os.path'",
    ),
    "no engine": (lambda parts: parts.honest(put("engines", value=[])), NoEngineFits, "it holds none"),
    "no golden outputs": (
        lambda parts: packed(
            [
                ("manifest.json", json.dumps(_without_golden(parts.document)).encode()),
                *sorted((name, data) for name, data in parts.files.items() if name != "golden.npz"),
            ]
        ),
        BundleError,
        r"there is no golden.npz in this bundle",
    ),
    "golden outputs that are a zip bomb": (
        lambda parts: parts.honest(golden=bomb()),
        BundleError,
        r"golden.npz: its arrays take 2147483647 bytes, and 1073741824 is the most",
    ),
    "golden outputs that run code": (
        lambda parts: parts.honest(golden=pickled()),
        BundleError,
        r"golden.npz: Object arrays cannot be loaded",
    ),
    "golden outputs of a petabyte": (
        lambda parts: parts.honest(
            golden=npz(**{"input.x": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (281474976710656,), }\n")})
        ),
        BundleError,
        r"golden.npz: ",
    ),
    "golden outputs that are no arrays": (
        lambda parts: parts.honest(golden=b"PK\x03\x04"),
        BundleError,
        r"golden.npz: not a file of numpy arrays",
    ),
    "golden outputs that are no numbers": (
        lambda parts: parts.honest(
            golden=npz(
                **{
                    "input.x": _array([[0.0] * 4]),
                    "output.y": npy(b"{'descr': '|V4', 'fortran_order': False, 'shape': (1,), }\n", bytes(4)),
                    "tolerance.y": _array(0.0),
                }
            )
        ),
        BundleError,
        r"golden.npz: 'output.y' must hold numbers, got \|V4",
    ),
    "golden outputs of another network": (
        lambda parts: parts.honest(golden=npz(**{"input.y": _array([[0.0]])})),
        BundleError,
        r"golden.npz: it has the inputs \['y'\], and the manifest declares \['x'\]",
    ),
    "an engine that is no network": (
        lambda parts: parts.honest(engine=b"\x7fELF" + bytes(100)),
        SelfTestFailed,
        "onnxruntime could not open the engine",
    ),
    "an engine that reads a file of the vehicle": (
        lambda parts: parts.honest(engine=reads_a_file("../../../../../../../../etc/passwd")),
        SelfTestFailed,
        "onnxruntime could not open the engine",
    ),
    "an engine with settings that nobody knows": (
        lambda parts: parts.honest(put("engines", 0, "settings", value={"plugin": "/tmp/evil.so"})),
        SelfTestFailed,
        "unknown key 'plugin'",
    ),
    "an engine of another network": (
        lambda parts: parts.honest(put("inputs", 0, "shape", 1, value=5)),
        SelfTestFailed,
        "its manifest declares the input x: float32 \\[batch, 5\\], and its engine has",
    ),
}


def _without_golden(document: Document) -> Document:
    return {**document, "files": {name: file for name, file in document["files"].items() if name != "golden.npz"}}


def _array(values: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values, np.float32))
    return stream.getvalue()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The tiny bundle in pieces, without budgets."""
    bundle = read_bundle(make_bundle(tmp_path_factory.mktemp("good") / "good.ewb"))
    document: Document = json.loads(bundle.manifest.to_bytes())
    document["budget"] = {}
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    return Parts(document, files, bundle.manifest.engines[0].path)


@pytest.fixture
def root(tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root that has the good bundle."""
    (tmp_path / "good.ewb").write_bytes(parts.honest())
    with monkeypatch.context() as quickly:
        quickly.setattr(installing, "rehearse", passes)
        install(tmp_path / "good.ewb", tmp_path / "root")
    return tmp_path / "root"


def test_the_good_bundle_that_the_bad_ones_are_made_of_is_installed(tmp_path: Path, parts: Parts) -> None:
    (tmp_path / "good.ewb").write_bytes(parts.honest())
    assert install(tmp_path / "good.ewb", tmp_path / "root").changed


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bad_bundle_is_refused_with_its_own_message_and_changes_nothing(
    name: str, parts: Parts, root: Path, tmp_path: Path
) -> None:
    make, error, message = ATTACKS[name]
    (tmp_path / "bad.ewb").write_bytes(make(parts))
    before, good = everything(tmp_path), read_installed(root).sha256
    with pytest.raises(error, match=message) as caught:
        install(tmp_path / "bad.ewb", root)
    assert type(caught.value) is error or error is BundleError
    assert read_installed(root).sha256 == good
    after = everything(tmp_path)
    if error is SelfTestFailed:  # then it is remembered, and that is all
        del before["root/installed.json"], after["root/installed.json"]
    assert after == before


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 30
    assert len({message for _, _, message in ATTACKS.values()}) >= 30


def test_a_signature_of_another_bundle_is_refused(parts: Parts, root: Path, tmp_path: Path) -> None:
    public, _ = make_keys(tmp_path / "key")
    other = tmp_path / "other.ewb"
    other.write_bytes(parts.honest(put("sequence", value=2)))
    sign_bundle(other, tmp_path / "key")
    line = other.read_bytes()[len(parts.honest(put("sequence", value=2))) :]
    bad = tmp_path / "bad.ewb"
    bad.write_bytes(parts.honest(put("sequence", value=3)) + line)
    before = everything(tmp_path)
    with pytest.raises(BundleError, match="the signature is another bundle's"):
        install(bad, root, require_key=public)
    assert everything(tmp_path) == before
    content = parts.honest(put("sequence", value=3))
    bad.write_bytes(content + sign(memoryview(content), tmp_path / "key").line())
    assert read_bundle(bad, require_key=public).manifest.sequence == 3


HEADERS = st.builds(
    "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}, }}\n".format,
    st.sampled_from(["<f4", "<f8", "|O", "|V8", "<M8[ns]", "|S99999999", "<U9", "x", "", "<f4,<f4", 7, [("a", "<f4")]]),
    st.sampled_from([True, False, "None", "1"]),
    st.one_of(
        st.lists(st.sampled_from([-1, 0, 1, 2, 3, 1 << 31, 1 << 62, 1 << 64]), max_size=4).map(tuple),
        st.sampled_from(["()", "(1.5,)", "None", "(True,)", "('a',)", "[2]", "(" * 300, "(2, 3"]),
    ),
).map(str.encode)


@given(
    header=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode), HEADERS),
    data=st.binary(max_size=30),
    version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"]),
)
@settings(max_examples=300, deadline=None)
def test_golden_arrays_with_any_header_are_read_or_refused_and_never_a_crash(
    header: bytes, data: bytes, version: bytes
) -> None:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    array = b"\x93NUMPY" + version + size + header + data
    arrays = {"input.x": _array([[0.0]]), "output.y": array, "tolerance.y": _array(0.0)}
    try:
        golden = golden_from_bytes(npz(**arrays))
    except BundleError:
        return
    assert golden.compare({"y": golden.outputs["y"]})[0].name == "y"
