"""A device of a lab for each test; the device's home, with the environment that is made in it once, is shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("asyncssh", reason="needs the extra ssh")

from tests.builder.device.lab import Folders, Lab, OpenSSH, environment_of, make_folders, site_with


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed on the device: ONNX Runtime and what it needs."""
    root = tmp_path_factory.mktemp("device-site") / "site"
    return site_with(root, "numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf")


@pytest.fixture(scope="session")
def device_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("device-home")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Ours and an empty device's; we are at home in ours, without an agent."""
    folders = make_folders(tmp_path / "homes")
    monkeypatch.setenv("HOME", str(folders.user))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folders


@pytest.fixture
def lab(folders: Folders) -> Iterator[Lab]:
    """A device without numpy, whose host key we know."""
    lab = Lab(folders, environment_of(folders.device, None), folders.write_key())
    lab.trust()
    yield lab
    lab.end()


@pytest.fixture
def ready_lab(folders: Folders, device_home: Path, site: Path) -> Iterator[Lab]:
    """A device with ONNX Runtime, on which earlier tests may have made the environment."""
    folders.device = device_home
    lab = Lab(folders, environment_of(device_home, site), folders.write_key())
    lab.trust()
    yield lab
    lab.end()


@pytest.fixture
def openssh(folders: Folders, device_home: Path, site: Path) -> Iterator[OpenSSH]:
    """The same device behind OpenSSH's sshd; skipped where there is none."""
    folders.device = device_home
    server = OpenSSH(folders, environment_of(device_home, site))
    if server.why:
        pytest.skip(server.why)
    yield server
    server.end()
