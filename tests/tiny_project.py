"""A small project that builds in half a minute, and how the tests run commands in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
Waiter = Callable[[subprocess.Popen[str], str], None]
TINY = REPOSITORY / "tests" / "tiny" / "recipes"


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class TinyProject:
    """A project of its own in a temporary folder; commands run in it as a user would run them."""

    root: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        path = os.pathsep.join([str(REPOSITORY / "builder"), str(REPOSITORY / "runtime")])
        return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[str]:
        """In a process group of its own, so that a test can kill all of it."""
        return subprocess.Popen(
            [sys.executable, "-m", "enginewright", *arguments],
            cwd=self.root,
            env=self.environment(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **extra: str) -> Finished:
        process = self.start(*arguments, **extra)
        out, err = process.communicate(timeout=300)
        return Finished(process.returncode, out, err)

    def build(self, *arguments: str, recipe: str = "tiny", **extra: str) -> Finished:
        return self.run("build", recipe, "--target", "cpu", "--json", *arguments, **extra)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / "recipes" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def make_project(folder: Path) -> TinyProject:
    shutil.copytree(TINY, folder / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    return TinyProject(folder)
