"""What the commands install, rollback, status and list print, and their exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.runtime.installation.bundles import alter, fails, foreign, installed
from tests.runtime.test_cli import Ran

from enginewright_runtime import cli
from enginewright_runtime.installation import Root, installing

Bundles = dict[int, Path]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], quick: None) -> Callable[..., Ran]:
    """Runs a command in this process."""

    def run(*arguments: str | Path) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


def test_a_bundle_s_way_in_and_out(command: Callable[..., Ran], bundles: Bundles, root: Path) -> None:
    one, two = installed(bundles[1]), installed(bundles[2])
    at_root = ("--root", root)
    assert command("status", *at_root) == Ran(1, "current   none\nprevious  none\nrefused   0\n", "")
    assert command("list", *at_root) == Ran(0, "nothing is installed\n", "")
    ran = command("install", bundles[1], *at_root)
    assert (ran.code, ran.out) == (0, f"{root}: installed {one}\n")
    assert tuple(ran.err.split()) == installing.STEPS
    assert command("install", bundles[1], *at_root).out == f"{root}: already installed, and whole {one}\n"
    assert command("install", bundles[2], *at_root).out == f"{root}: installed {two}\n  before: {one}\n"
    whole = "whole, and runs here"
    assert command("status", *at_root).out == f"current   {two}: {whole}\nprevious  {one}: {whole}\nrefused   0\n"
    assert command("rollback", *at_root).out == f"{root}: went back to {one}\n"
    assert command("list", *at_root).out == f"current   {one}\nrefused   {two}: it was rolled back\n"
    ran = command("install", bundles[2], *at_root)
    assert ran.code == 2
    assert ran.err.endswith(
        "it was refused before: it was rolled back\n  fix: build a better one, or insist with --allow-refused\n"
    )
    assert command("install", bundles[2], *at_root, "--allow-refused").code == 0


def test_the_same_as_json(command: Callable[..., Ran], bundles: Bundles, root: Path) -> None:
    one = {"sha256": installed(bundles[1]).sha256, "name": "tiny", "target": "cpu", "sequence": 1}
    found = command("install", bundles[1], "--root", root, "--json").json
    assert found == {"root": str(root), "current": one, "previous": None, "changed": True, "findings": []}
    found = command("status", "--root", root, "--json").json
    path = str(Root(root).slot(installed(bundles[1])))
    assert found["current"] == {**one, "path": path, "fault": "", "misfit": ""}
    found = command("list", "--root", root, "--json").json
    assert (found["current"], found["previous"], found["refused"]) == (one, None, [])


def test_status_says_that_a_bundle_was_altered_after_it_was_installed(
    command: Callable[..., Ran], bundles: Bundles, root: Path
) -> None:
    command("install", bundles[1], "--root", root)
    alter(Root(root).slot(installed(bundles[1])))
    ran = command("status", "--root", root)
    assert ran.code == 1
    assert "its bytes do not match its digest: it was altered" in ran.out
    Root(root).slot(installed(bundles[1])).unlink()
    ran = command("status", "--root", root)
    assert ran.code == 1
    assert "no such file" in ran.out


def test_status_says_that_the_installed_bundle_does_not_run_any_more(
    command: Callable[..., Ran], bundles: Bundles, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade of the library."""
    other = foreign(tmp_path / "foreign.ewb", bundles[1], onnxruntime="0.1")
    monkeypatch.setattr(installing, "_check_device", lambda bundle: None)
    command("install", other, "--root", root)
    ran = command("status", "--root", root)
    assert ran.code == 4
    assert "it needs onnxruntime 0.1" in ran.out


def test_a_failed_self_test_ends_with_1_and_an_older_bundle_with_2(
    command: Callable[..., Ran], bundles: Bundles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("install", bundles[2], "--root", root)
    assert command("install", bundles[1], "--root", root).code == 2
    assert command("install", bundles[1], "--root", root, "--allow-older").code == 0
    monkeypatch.setattr(installing, "rehearse", fails)
    ran = command("install", bundles[3], "--root", root)
    assert ran.code == 1
    assert "its self-test failed, and it was not installed: it is too slow" in ran.err
