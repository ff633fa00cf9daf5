"""A bundle is whole and unaltered, or refused; and refusing writes nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.tiny_bundle import tiny_manifest

from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.canonical import canonical_bytes, sha256_hex
from enginewright_runtime.errors import BundleError, ManifestError
from enginewright_runtime.manifest import TensorSpec
from enginewright_runtime.stored_zip import encode

FILES = {"model.onnx": b"a model", "engines/a/engine": b"an engine"}
COMMENT_BYTES = 84


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle of two small files."""
    write_bundle(tmp_path / "small.ewb", tiny_manifest(), FILES)
    return tmp_path / "small.ewb"


def refusal(path: Path, data: bytes) -> BundleError:
    """The error that reading these bytes raises; nothing may be written while it does."""
    path.write_bytes(data)
    before = {entry: entry.stat().st_mtime_ns for entry in path.parent.rglob("*")}
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    assert {entry: entry.stat().st_mtime_ns for entry in path.parent.rglob("*")} == before
    return caught.value


def test_what_is_packed_is_read(path: Path) -> None:
    bundle = read_bundle(path)
    assert {name: bundle.read(name) for name in bundle.manifest.files} == FILES
    assert bundle.manifest.files["model.onnx"].sha256 == sha256_hex(b"a model")
    assert replace(bundle.manifest, files={}) == tiny_manifest()
    assert path.read_bytes().endswith(b"enginewright sha256 " + bundle.sha256.encode())
    with pytest.raises(BundleError, match=r"small.ewb: there is no report.html in this bundle"):
        bundle.read("report.html")


def test_the_same_content_makes_the_same_bytes_in_any_order(path: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "again.ewb", tiny_manifest(), dict(reversed(FILES.items())))
    assert (tmp_path / "again.ewb").read_bytes() == path.read_bytes()


def test_any_zip_tool_can_look_into_a_bundle(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["manifest.json", "engines/a/engine", "model.onnx"]
        assert archive.testzip() is None
        assert archive.read("model.onnx") == b"a model"
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_every_change_of_one_byte_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            for change in (0x01, 0x20, 0x80, 0xFF):
                os.pwrite(file.fileno(), bytes([byte ^ change]), position)
                with pytest.raises(BundleError):
                    read_bundle(path)
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert read_bundle(path).read("model.onnx") == b"a model"


def test_every_truncation_and_every_addition_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        with pytest.raises(BundleError):
            read_bundle(path)
    for altered in (whole + b"\n", b"\n" + whole, whole + whole, whole[: len(whole) // 2] + whole):
        path.write_bytes(altered)
        with pytest.raises(BundleError):
            read_bundle(path)


def test_an_altered_bundle_says_so_and_what_to_do(path: Path) -> None:
    data = path.read_bytes()
    again = "\n  fix: copy or build it again"
    assert str(refusal(path, b"P" + data)) == f"{path}: its bytes do not match its digest: it was altered{again}"
    cut = "not an enginewright bundle, or cut short: it does not end with its digest"
    assert str(refusal(path, data[:-1])) == f"{path}: {cut}{again}"


# What follows was packed by somebody who knows the format: every bundle below ends with the right digest of its bytes.


def sealed(body: bytes) -> bytes:
    """The body with the digest that a bundle ends with."""
    return body + b"enginewright sha256 " + sha256_hex(body).encode()


def packed(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Files as they are, in that order, sealed."""
    return sealed(b"".join(encode(files, comment_bytes=COMMENT_BYTES)))


def raw_manifest(change: Callable[[dict[str, Any]], object] | None = None) -> bytes:
    """The small bundle's manifest, after a change."""
    manifest = tiny_manifest().to_json()
    document: dict[str, Any] = json.loads(canonical_bytes(manifest))
    document["files"] = {name: {"sha256": sha256_hex(data), "size": len(data)} for name, data in FILES.items()}
    if change:
        change(document)
    return json.dumps(document).encode()


def with_files(*changes: tuple[str, bytes], without: str | None = None) -> bytes:
    """The small bundle with other or more files, under the manifest of the right ones."""
    files = {name: data for name, data in {**FILES, **dict(changes)}.items() if name != without}
    return packed([("manifest.json", raw_manifest()), *sorted(files.items())])


def with_manifest(manifest: bytes) -> bytes:
    """The small bundle under another manifest."""
    return packed([("manifest.json", manifest), *sorted(FILES.items())])


def by_zipfile(
    *, name: str = "extra", compression: int = zipfile.ZIP_STORED, mode: int = 0o644 | stat.S_IFREG
) -> bytes:
    """The small bundle and one more file, packed by the standard library."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), raw_manifest())
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        entry.compress_type = compression
        archive.writestr(entry, b"content" * 100)
        archive.comment = b"#" * COMMENT_BYTES
    return sealed(stream.getvalue()[:-COMMENT_BYTES])


def edited(old: bytes, new: bytes, *, count: int = 1, body: bytes | None = None) -> bytes:
    """The small bundle with some bytes replaced by as many others, sealed again."""
    assert len(old) == len(new)
    body = (body or with_files())[:-COMMENT_BYTES]
    assert old in body
    return sealed(body.replace(old, new, count))


def with_hole() -> bytes:
    """A byte hidden between the last file and the directory, with the offsets put right."""
    body = bytearray(with_files()[:-COMMENT_BYTES])
    start = int.from_bytes(body[-6:-2], "little")
    body[-6:-2] = (start + 1).to_bytes(4, "little")
    body[start:start] = b"!"
    return sealed(bytes(body))


def beyond_the_end() -> bytes:
    """The first file's size, in both headers, reaches beyond the bundle."""
    body = bytearray(with_files()[:-COMMENT_BYTES])
    directory = int.from_bytes(body[-6:-2], "little")
    for at in (18, 22, directory + 20, directory + 24):
        body[at : at + 4] = (1 << 30).to_bytes(4, "little")
    return sealed(bytes(body))


def overlapping() -> bytes:
    """Two directory entries that share one file's bytes, as in the zip bombs that need no nesting."""
    body = bytearray(with_files()[:-COMMENT_BYTES])
    directory = int.from_bytes(body[-6:-2], "little")
    second = body.index(b"PK\x01\x02", directory + 1)
    body[second + 42 : second + 46] = body[directory + 42 : directory + 46]
    return sealed(bytes(body))


def deep(levels: int) -> bytes:
    """JSON that nests."""
    return b'{"a":' * levels + b"1" + b"}" * levels


BAD_BUNDLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "an empty file": (lambda: b"", "it does not end with its digest"),
    "some other file": (lambda: b"\x7fELF" + bytes(500), "it does not end with its digest"),
    "a plain zip": (lambda: by_zipfile()[:-COMMENT_BYTES] + b" " * COMMENT_BYTES, "it does not end with its digest"),
    "a digest in capitals": (lambda: with_files()[:-64] + b"A" * 64, "it does not end with its digest"),
    "the digest of another bundle": (lambda: with_files()[:-64] + packed([])[-64:], "it was altered"),
    "nothing but a digest": (lambda: sealed(b""), "too short to be a zip"),
    "no zip": (lambda: sealed(bytes(500)), "its zip directory has no end record"),
    "a comment of another length": (
        lambda: sealed(b"".join(encode([], comment_bytes=10))),
        "its zip directory has no end record",
    ),
    "no files": (lambda: packed([]), "its first file is not manifest.json"),
    "no manifest": (lambda: packed(sorted(FILES.items())), "its first file is not manifest.json"),
    "the manifest last": (
        lambda: packed([*sorted(FILES.items()), ("manifest.json", raw_manifest())]),
        "its first file is not manifest.json",
    ),
    "a second manifest": (
        lambda: packed([("manifest.json", raw_manifest())] * 2),
        "the file manifest.json is in it twice",
    ),
    "a file twice": (
        lambda: packed([("manifest.json", raw_manifest()), *[("model.onnx", b"a model")] * 2]),
        "the file model.onnx is in it twice",
    ),
    "files not sorted": (
        lambda: packed([("manifest.json", raw_manifest()), *sorted(FILES.items(), reverse=True)]),
        "its files are not sorted by name",
    ),
    "a file altered": (lambda: with_files(("model.onnx", b"A model")), "model.onnx does not match its digest"),
    "two files swapped": (
        lambda: with_files(("model.onnx", b"an engine"), ("engines/a/engine", b"a model")),
        "model.onnx has 9 bytes, and the manifest says 7",
    ),
    "a file longer": (
        lambda: with_files(("model.onnx", b"a model ")),
        "model.onnx has 8 bytes, and the manifest says 7",
    ),
    "a file missing": (lambda: with_files(without="model.onnx"), "the file model.onnx is missing"),
    "a file too many": (lambda: with_files(("run.sh", b"#!")), "run.sh is in it, and its manifest does not list it"),
    "an absolute path": (lambda: with_files(("/etc/cron.d/a", b"")), "'/etc/cron.d/a' is not a plain relative path"),
    "a path upwards": (lambda: with_files(("../a", b"")), "'../a' is not a plain relative path"),
    "a path upwards inside": (lambda: with_files(("a/../../b", b"")), "'a/../../b' is not a plain relative path"),
    "a Windows path": (lambda: with_files(("C:\\a", b"")), r"is not a plain relative path"),
    "a hidden file": (lambda: with_files((".bashrc", b"")), "'.bashrc' is not a plain relative path"),
    "a folder": (lambda: with_files(("engines/", b"")), "'engines/' is not a plain relative path"),
    "a newline in a name": (lambda: with_files(("a\nb", b"")), "is not a plain relative path"),
    "a NUL in a name": (lambda: with_files(("a\0b", b"")), "is not a plain relative path"),
    "an empty name": (lambda: with_files(("", b"")), "'' is not a plain relative path"),
    "a name too long": (lambda: with_files(("a" * 301, b"")), "is not a plain relative path"),
    "a name that is not ASCII": (lambda: by_zipfile(name="ä"), "is not a plain relative path"),
    "a link": (lambda: by_zipfile(mode=stat.S_IFLNK | 0o777), "the file extra is a link"),
    "a compressed file": (lambda: by_zipfile(compression=zipfile.ZIP_DEFLATED), "the file extra is compressed"),
    "an encrypted file": (
        lambda: edited(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"),
        "is encrypted or streamed",
    ),
    "a zip by another tool": (by_zipfile, "its zip records are not the canonical ones"),
    "another date": (lambda: edited(b"\x21\x00", b"\x22\x00", count=-1), "its zip records are not the canonical ones"),
    "another name in the second header": (
        lambda: edited(b"\x00\x00model.onnx", b"\x00\x00model.nnox"),
        "its zip records are not the canonical ones",
    ),
    "bytes that no file owns": (with_hole, "its zip records are not the canonical ones"),
    "a file beyond the end": (beyond_the_end, "the file manifest.json lies outside the bundle"),
    "files that overlap": (overlapping, "not the canonical ones|does not match"),
    "more files than are read": (
        lambda: packed([(f"f{number}", b"") for number in range(1_001)]),
        "lists 1001 files, and 1000 is the most",
    ),
    "a directory cut short": (
        lambda: sealed(b"PK\x05\x06" + bytes(4) + b"\x02\x00\x02\x00" + bytes(8) + b"\x54\x00"),
        "its zip directory is cut short",
    ),
    "a manifest that is no JSON": (lambda: with_manifest(b"{'a': 1}"), "manifest.json: not valid JSON"),
    "a manifest that is huge": (lambda: with_manifest(b" " * (1 << 23)), "8388608 bytes, and 4194304 is the most"),
    "a manifest that is deep": (lambda: with_manifest(deep(100_000)), "nested more than 64 levels deep"),
    "a manifest with a key twice": (
        lambda: with_manifest(raw_manifest().replace(b'{"', b'{"format": 1, "', 1)),
        "the key 'format' stands twice",
    ),
    "a manifest of a newer format": (
        lambda: with_manifest(raw_manifest(lambda document: document.update(format=2))),
        "format 2 is newer than this runtime reads",
    ),
    "a digest of another length": (
        lambda: with_manifest(raw_manifest(lambda document: document["files"]["model.onnx"].update(sha256="ab"))),
        "must be 64 lower-case hexadecimal digits, got 'ab'",
    ),
    "a shape that is NaN": (
        lambda: with_manifest(raw_manifest().replace(b'"batch", 4', b'"batch", NaN')),
        "JSON has no NaN",
    ),
    "an engine outside": (
        lambda: with_manifest(
            raw_manifest(
                lambda document: document["engines"].append(
                    {"fingerprint": "a", "backend": "a", "path": "../engine", "settings": {}, "requires": {}}
                )
            )
        ),
        "engines\\[0\\].path: the path must be a plain relative path, got '../engine'",
    ),
}


@pytest.mark.parametrize("name", BAD_BUNDLES)
def test_a_bad_bundle_is_refused_with_its_own_message(tmp_path: Path, name: str) -> None:
    make, message = BAD_BUNDLES[name]
    path = tmp_path / "bad.ewb"
    with pytest.raises(BundleError, match=message) as caught:
        raise refusal(path, make())
    assert caught.value.message.startswith(f"{path}: ")


def test_the_small_bundle_that_the_bad_ones_are_made_from_is_good(tmp_path: Path) -> None:
    (tmp_path / "good.ewb").write_bytes(with_files())
    assert read_bundle(tmp_path / "good.ewb").read("model.onnx") == b"a model"


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone.ewb: no such file"):
        read_bundle(tmp_path / "gone.ewb")
    with pytest.raises(BundleError, match="not a file"):
        read_bundle(tmp_path)


def test_a_bundle_that_a_reader_would_refuse_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bad.ewb"
    with pytest.raises(ManifestError, match="plain relative path"):
        write_bundle(path, tiny_manifest(), {"../escape": b""})
    nameless = replace(tiny_manifest(), inputs=(TensorSpec("", (1,), "float32"),))
    with pytest.raises(ManifestError, match="one line of text"):
        write_bundle(path, nameless, FILES)
    with pytest.raises(BundleError, match="fewer than 1000"):
        write_bundle(path, tiny_manifest(), {f"f{number}": b"" for number in range(1000)})
    assert list(tmp_path.iterdir()) == []


def test_reading_a_bundle_on_a_read_only_disk_works(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    shutil.copy(path, folder / "small.ewb")
    folder.chmod(0o500)
    try:
        assert read_bundle(folder / "small.ewb").manifest.name == "tiny"
    finally:
        folder.chmod(0o700)
