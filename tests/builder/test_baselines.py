"""Baselines: verified when saved and when fetched, whole or not there at all, in folders and in object stores."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tests.runtime.tiny_bundle import make_bundle

from enginewright import baselines
from enginewright.cli import main
from enginewright.errors import StoreError, UsageError
from enginewright_runtime.errors import BundleError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny-cpu.ewb")


@pytest.fixture(params=["folder", "file URL", "object store"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each kind of store."""
    yield {"folder": f"{tmp_path}/kept", "file URL": f"file://{tmp_path}/kept", "object store": "memory://kept/here"}[
        request.param
    ]
    fsspec.filesystem("memory").store.clear()


def test_what_was_saved_is_fetched_byte_for_byte(bundle: Path, address: str, tmp_path: Path) -> None:
    saved = baselines.save("main", bundle, address)
    fetched = baselines.fetch("main", tmp_path / "new" / "base.ewb", address)
    assert (tmp_path / "new" / "base.ewb").read_bytes() == bundle.read_bytes()
    assert fetched.sha256 == saved.sha256
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["base.ewb"]


def test_a_baseline_takes_the_place_of_the_one_before(bundle: Path, address: str, tmp_path: Path) -> None:
    baselines.save("main", bundle, address)
    baselines.save("main", bundle, address)
    assert baselines.fetch("main", tmp_path / "base.ewb", address).manifest.name == "tiny"


def test_a_baseline_that_is_not_there_is_told_with_how_to_make_it(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no baseline 'main'") as caught:
        baselines.fetch("main", tmp_path / "base.ewb", address)
    assert caught.value.hint == "enginewright baseline save main BUNDLE.ewb"


def test_what_is_no_bundle_is_not_saved(tmp_path: Path, address: str) -> None:
    (tmp_path / "odd.ewb").write_bytes(b"no bundle")
    with pytest.raises(BundleError):
        baselines.save("main", tmp_path / "odd.ewb", address)
    with pytest.raises(UsageError):
        baselines.fetch("main", tmp_path / "base.ewb", address)


@pytest.mark.parametrize("cut", [True, False])
def test_an_altered_baseline_is_refused_and_the_file_here_stays(
    bundle: Path, address: str, tmp_path: Path, cut: bool
) -> None:
    baselines.save("main", bundle, address)
    data = bytearray(bundle.read_bytes())
    data[300] ^= 1
    with fsspec.open(f"{address}/main.ewb", "wb") as stream:
        stream.write(bytes(data[:500] if cut else data))
    (tmp_path / "base.ewb").write_bytes(b"what was here")
    with pytest.raises(BundleError, match=r"main\.ewb: (not an enginewright bundle|its bytes do not match)"):
        baselines.fetch("main", tmp_path / "base.ewb", address)
    assert (tmp_path / "base.ewb").read_bytes() == b"what was here"
    assert not list(tmp_path.glob(".enginewright-*"))


@pytest.mark.parametrize("name", ["", "../main", "a/b", ".hidden", "a\nb", "x" * 200])
def test_a_name_that_could_lead_elsewhere_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a baseline"):
        baselines.save(name, bundle, str(tmp_path))


def test_an_unknown_kind_of_store_and_a_missing_package_are_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        baselines.save("main", bundle, "nonsense://bucket")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError) as caught:
        baselines.save("main", bundle, "s3://bucket")
    assert caught.value.hint == "pip install 'enginewright[baselines]'"


def test_a_store_that_refuses_is_an_error_with_its_place(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder would be")
    with pytest.raises(StoreError, match=r"taken/main\.ewb: "):
        baselines.save("main", bundle, str(tmp_path / "taken"))


def test_what_a_store_s_own_library_raises_is_an_error_with_its_place(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoCredentials(Exception):
        """As botocore has it: no OSError."""

    def pipe_file(*arguments: object, **named: object) -> None:
        raise NoCredentials("unable to locate credentials")

    monkeypatch.setattr(fsspec.filesystem("memory"), "pipe_file", pipe_file)
    with pytest.raises(StoreError, match=r"memory://kept/.*NoCredentials: unable to locate credentials"):
        baselines.save("main", bundle, "memory://kept/here")


def test_the_command_saves_and_fetches(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ENGINEWRIGHT_BASELINES", raising=False)
    assert main(["baseline", "save", "main", str(bundle)]) == 2
    assert "it is not said where the baselines are kept" in capsys.readouterr().err
    monkeypatch.setenv("ENGINEWRIGHT_BASELINES", str(tmp_path / "kept"))
    assert main(["baseline", "save", "main", str(bundle)]) == 0
    assert capsys.readouterr().out.startswith("saved main: tiny for cpu, sha256 ")
    assert main(["baseline", "fetch", "main", str(tmp_path / "b.ewb"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "main"
