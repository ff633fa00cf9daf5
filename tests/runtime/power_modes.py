"""A Jetson's nvpmodel, for tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from enginewright_runtime.telemetry import jetson


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what nvpmodel tells: the power mode (None: nothing), and what its file says (empty: it cannot be read)."""

    def put(mode: str | None, file: str = "") -> None:
        monkeypatch.setattr(jetson, "_run", lambda command: "" if mode is None else f"NV Power Mode: {mode}\n0\n")
        monkeypatch.setattr(jetson, "read_text", lambda path: file or None)

    return put
