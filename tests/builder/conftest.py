"""One build of the small project that the tests share, and fresh copies of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.builder.lone_stage import LoneStage
from tests.tiny_project import Finished, TinyProject, Waiter, make_project


@pytest.fixture
def tiny(tmp_path: Path) -> TinyProject:
    """A project in which nothing was built."""
    return make_project(tmp_path)


@pytest.fixture(scope="session")
def first_build(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyProject, Finished]:
    """The shared project after its first build. Tests must not change it: they take a copy with `built`."""
    project = make_project(tmp_path_factory.mktemp("tiny"))
    finished = project.build()
    assert finished.code == 0, finished.err
    return project, finished


@pytest.fixture
def built(first_build: tuple[TinyProject, Finished], tmp_path: Path) -> TinyProject:
    """A copy of the shared project, in which everything is built."""
    project, _ = first_build
    shutil.copytree(project.root, tmp_path, dirs_exist_ok=True)
    return TinyProject(tmp_path)


@pytest.fixture
def lone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoneStage:
    """Runs stages in this process; what they put on the path of imports goes with the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return LoneStage(tmp_path / "lone", lambda name, module: monkeypatch.setitem(sys.modules, name, module))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch with one thread: networks of a few channels take ten times longer with two, where the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def wait_for_line() -> Waiter:
    """Reads a process's standard error until a line holds some text."""

    def wait(process: subprocess.Popen[str], text: str) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if text in line:
                return
        pytest.fail(f"the process ended without saying {text!r}")

    return wait
