"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.builder.lone_stage import LoneStage
from tests.builder.recoverer import Recoverer


@pytest.fixture
def recoverer(lone: LoneStage, tmp_path: Path) -> Recoverer:
    return Recoverer(lone, tmp_path)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Every test here trains with torch."""
