"""The runtime on 64-bit ARM, emulated; see prove.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.aarch64.machine import Unable

FOLDER = os.environ.get("ENGINEWRIGHT_AARCH64")


@pytest.mark.skipif(
    FOLDER is None,
    reason="takes six minutes and Debian's mirror; ENGINEWRIGHT_AARCH64=FOLDER runs it and keeps the machine there",
)
def test_the_wheel_installs_and_runs_a_bundle_on_aarch64() -> None:
    from tests.aarch64.prove import check, prove

    assert FOLDER is not None
    try:
        check(prove(Path(FOLDER)))
    except Unable as unable:
        pytest.skip(str(unable))
