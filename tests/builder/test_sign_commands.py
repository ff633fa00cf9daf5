"""`enginewright keygen` and `enginewright sign`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.tiny_bundle import tiny_manifest

from enginewright.cli import main
from enginewright_runtime.bundle import read_bundle, write_bundle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small bundle."""
    write_bundle(tmp_path / "small.ewb", tiny_manifest(), {"model.onnx": b"a model"})
    return tmp_path / "small.ewb"


def test_what_the_new_key_signs_its_public_key_accepts(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keygen", str(tmp_path / "key")]) == 0
    assert "key.pub, the public key " in capsys.readouterr().out
    assert main(["sign", str(path), "--key", str(tmp_path / "key")]) == 0
    signed = read_bundle(path, require_key=tmp_path / "key.pub")
    assert capsys.readouterr().out == f"{path}: signed by the key {signed.signed_by}, sha256 {signed.sha256}\n"


def test_an_altered_bundle_is_not_signed(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", str(tmp_path / "key")]) == 0
    altered = path.read_bytes().replace(b"a model", b"A model")
    path.write_bytes(altered)
    assert main(["sign", str(path), "--key", str(tmp_path / "key")]) == 2
    assert "it was altered" in capsys.readouterr().err
    assert path.read_bytes() == altered


@pytest.mark.parametrize(
    ("key", "message"),
    [(None, "the key cannot be read: No such file"), (b"", "not a private key in PEM"), ("pub", "not a private key")],
)
def test_a_key_that_cannot_sign_is_said(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: bytes | str | None, message: str
) -> None:
    assert main(["keygen", str(tmp_path / "key")]) == 0
    wrong = tmp_path / "key.pub" if key == "pub" else tmp_path / "wrong"
    if isinstance(key, bytes):
        wrong.write_bytes(key)
    assert main(["sign", str(path), "--key", str(wrong)]) == 2
    assert message in capsys.readouterr().err
