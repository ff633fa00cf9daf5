"""What most tests of the runtime begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.tiny_bundle import make_bundle


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle. Tests must not change it."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny-cpu.ewb")
