"""Three bundles of one network, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.installation.bundles import numbered, passes

from enginewright_runtime.installation import installing


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Bundles by their sequence numbers. Tests must not change them."""
    folder = tmp_path_factory.mktemp("bundles")
    return {sequence: numbered(folder, sequence) for sequence in (1, 2, 3)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root that is not there yet."""
    return tmp_path / "root"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-tests pass at once."""
    monkeypatch.setattr(installing, "rehearse", passes)
    monkeypatch.setattr(installing, "rehearse_golden", passes)
