"""Whoever requires a key gets bundles that its owner signed, or nothing; whoever requires none reads them all."""

from __future__ import annotations

import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.runtime.installation.bundles import passes
from tests.runtime.test_bundle import by_zipfile, packed, sealed, with_files
from tests.runtime.tiny_bundle import make_bundle

import enginewright_runtime
from enginewright_runtime import bundle as bundle_module
from enginewright_runtime import cli, signing
from enginewright_runtime.bundle import read_bundle, sign_bundle
from enginewright_runtime.errors import BundleError, SignatureError
from enginewright_runtime.installation import install, installing, open_installed, read_installed
from enginewright_runtime.signing import LINE_BYTES, make_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Ours and theirs, private and public."""
    folder = tmp_path_factory.mktemp("keys")
    made = {name: make_keys(folder / name) for name in ("ours", "theirs")}
    return SimpleNamespace(
        **{name: folder / name for name in made},
        **{f"{name}_public": public for name, (public, _) in made.items()},
        **{f"{name}_name": key for name, (_, key) in made.items()},
    )


@pytest.fixture
def signed(tmp_path: Path, keys: SimpleNamespace) -> Path:
    """A small bundle, signed with our key."""
    path = tmp_path / "signed.ewb"
    path.write_bytes(with_files())
    sign_bundle(path, keys.ours)
    return path


def test_a_signed_bundle_is_the_same_bundle_and_anybody_can_read_it(signed: Path, keys: SimpleNamespace) -> None:
    whole = signed.read_bytes()
    assert whole[:-LINE_BYTES] == with_files()
    bundle = read_bundle(signed)
    assert bundle.signed_by == keys.ours_name
    assert bundle.sha256 == with_files()[-64:].decode()
    assert read_bundle(signed, require_key=keys.ours_public).read("model.onnx") == b"a model"
    with zipfile.ZipFile(signed) as archive:
        assert archive.testzip() is None


def test_signing_again_gives_the_same_bytes_and_another_key_replaces_the_first(
    signed: Path, keys: SimpleNamespace
) -> None:
    once = signed.read_bytes()
    assert sign_bundle(signed, keys.ours).signed_by == keys.ours_name
    assert signed.read_bytes() == once
    sign_bundle(signed, keys.theirs)
    assert len(signed.read_bytes()) == len(once)
    assert read_bundle(signed, require_key=keys.theirs_public).signed_by == keys.theirs_name


def test_every_change_of_one_byte_is_refused_where_the_key_is_required(signed: Path, keys: SimpleNamespace) -> None:
    """Every 7th byte of the files, and every byte of the end, where digest and signature stand."""
    whole = signed.read_bytes()
    for position in [*range(0, len(whole) - 400, 7), *range(len(whole) - 400, len(whole))]:
        for change in (0x01, 0x20):
            altered = bytearray(whole)
            altered[position] ^= change
            signed.write_bytes(altered)
            with pytest.raises(BundleError):
                read_bundle(signed, require_key=keys.ours_public)


FOREIGN: dict[str, tuple[Callable[[bytes, SimpleNamespace, Path], bytes], str]] = {
    "an unsigned bundle": (
        lambda whole, keys, folder: whole[:-LINE_BYTES],
        "it is not signed, and a signature by the key",
    ),
    "a bundle that another key signed": (
        lambda whole, keys, folder: _signed(folder, whole[:-LINE_BYTES], keys.theirs),
        "it is signed by the key .*, and the key .* is required",
    ),
    "another key's signature under our name": (
        lambda whole, keys, folder: whole[:-129] + _signed(folder, whole[:-LINE_BYTES], keys.theirs)[-129:],
        "its signature is not one of these bytes",
    ),
    "the signature of another bundle": (
        lambda whole, keys, folder: whole[:-LINE_BYTES] + _signed(folder, packed([]), keys.ours)[-LINE_BYTES:],
        "its signature is not one of these bytes",
    ),
    "an altered bundle with its digest put right": (
        lambda whole, keys, folder: with_files(("model.onnx", b"A model")) + whole[-LINE_BYTES:],
        "its signature is not one of these bytes",
    ),
    "a signature of zeros": (
        lambda whole, keys, folder: whole[:-129] + b"0" * 128 + b"\n",
        "its signature is not one of",
    ),
    "a signature in capitals": (lambda whole, keys, folder: whole[:-129] + b"A" * 128 + b"\n", "it is not signed"),
    "a signature that is one digit short": (lambda whole, keys, folder: whole[:-2] + b"\n", "it is not signed"),
    "something behind the signature": (lambda whole, keys, folder: whole + b"\n", "it is not signed"),
    "two signatures": (
        lambda whole, keys, folder: whole + whole[-LINE_BYTES:],
        "its signature is not one of these bytes",
    ),
    "a signature alone": (lambda whole, keys, folder: whole[-LINE_BYTES:], "its signature is not one of these bytes"),
    "an empty file": (lambda whole, keys, folder: b"", "it is not signed"),
    "garbage that nobody signed": (lambda whole, keys, folder: sealed(bytes(500)), "it is not signed"),
    "a zip by another tool": (lambda whole, keys, folder: by_zipfile(), "it is not signed"),
}


def _signed(folder: Path, content: bytes, key: Path) -> bytes:
    """Bytes that are perhaps no bundle, signed."""
    return content + signing.sign(memoryview(content), key).line()


@pytest.mark.parametrize("name", FOREIGN)
def test_what_our_key_did_not_sign_is_refused_before_anything_in_it_is_parsed(
    name: str, signed: Path, keys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = FOREIGN[name]
    signed.write_bytes(make(signed.read_bytes(), keys, signed.parent))

    def parsed(*arguments: object, **options: object) -> None:
        raise AssertionError("something of it was parsed")

    for what in ("_digest_at_end", "decode", "parse_manifest"):
        monkeypatch.setattr(bundle_module, what, parsed)
    with pytest.raises(SignatureError, match=message) as caught:
        read_bundle(signed, require_key=keys.ours_public)
    assert caught.value.message.startswith(f"{signed}: ")


def test_a_bundle_that_was_signed_and_is_bad_is_still_refused(signed: Path, keys: SimpleNamespace) -> None:
    """Whoever holds the key can make mistakes."""
    signed.write_bytes(_signed(signed.parent, with_files(without="model.onnx"), keys.ours))
    with pytest.raises(BundleError, match=r"the file model.onnx is missing"):
        read_bundle(signed, require_key=keys.ours_public)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda keys, path: None, "the key cannot be read: No such file"),
        (lambda keys, path: path.write_bytes(b"ssh-ed25519 AAAA"), "not a public key in PEM"),
        (lambda keys, path: path.write_bytes(keys.ours.read_bytes()), "not a public key in PEM"),
        (lambda keys, path: path.write_bytes(_other_kind_of_key()), "a public key, but not an Ed25519 one"),
    ],
)
def test_a_key_that_cannot_be_used_refuses_every_bundle(
    signed: Path, keys: SimpleNamespace, make: Callable[[SimpleNamespace, Path], object], message: str
) -> None:
    make(keys, signed.parent / "key")
    with pytest.raises(SignatureError, match=message):
        read_bundle(signed, require_key=signed.parent / "key")


def _other_kind_of_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    public = X25519PrivateKey.generate().public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_keys_are_made_once_and_the_private_one_is_for_its_owner_alone(tmp_path: Path) -> None:
    public, name = make_keys(tmp_path / "key")
    assert public == tmp_path / "key.pub"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(SignatureError, match="key: cannot be written: File exists"):
        make_keys(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before
    assert len(name) == 16
    (tmp_path / "other.pub").write_bytes(b"")
    with pytest.raises(SignatureError, match=r"other.pub: cannot be written: File exists"):
        make_keys(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_without_the_library_a_required_key_refuses_and_names_the_extra(
    signed: Path, keys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(SignatureError, match="signatures need the package cryptography") as caught:
        read_bundle(signed, require_key=keys.ours_public)
    assert caught.value.hint == "pip install 'enginewright-runtime[signing]'"
    assert read_bundle(signed).signed_by == keys.ours_name


def test_every_way_in_takes_a_key(
    tmp_path: Path, keys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installing, "rehearse", passes)
    path, root = make_bundle(tmp_path / "tiny.ewb"), tmp_path / "root"
    ours = keys.ours_public
    for refused in (
        lambda: enginewright_runtime.open(path, require_key=ours),
        lambda: install(path, root, require_key=ours),
    ):
        with pytest.raises(SignatureError, match="it is not signed"):
            refused()
    install(path, root)
    with pytest.raises(SignatureError, match="it is not signed"):
        open_installed(root, require_key=ours)
    for command in ("verify", "info", "run", "bench"):
        assert cli.main([command, str(path), "--key", str(ours)]) == 2
    assert cli.main(["status", "--root", str(root), "--key", str(ours)]) == 1
    capsys.readouterr()
    sign_bundle(path, keys.ours)
    enginewright_runtime.open(path, require_key=ours).close()
    assert install(path, root, require_key=ours).changed  # the same bundle, and now with its signature
    assert read_installed(root, require_key=ours).signed_by == keys.ours_name
    assert cli.main(["verify", str(path), "--key", str(ours)]) == 0
    assert capsys.readouterr().out.endswith(f"signed by the key {keys.ours_name}, which {ours} is\n")
    assert cli.main(["verify", str(path)]) == 0
    assert "was not checked: --key PUBLIC does that" in capsys.readouterr().out
