"""A project: the folder with `recipes/`, and where its parts lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginewright.errors import UsageError, did_you_mean

__all__ = ["STORE_VARIABLE", "Project", "find_project"]

STORE_VARIABLE = "ENGINEWRIGHT_STORE"


@dataclass(frozen=True)
class Project:
    """`root` is the folder that has `recipes/`; `store` is where artifacts are kept. All paths are absolute."""

    root: Path
    store: Path

    @property
    def recipes(self) -> Path:
        return self.root / "recipes"

    @property
    def targets(self) -> Path:
        """The project's own targets; the folder need not exist."""
        return self.root / "targets"

    @property
    def dist(self) -> Path:
        """Where bundles and reports go; the folder need not exist."""
        return self.root / "dist"

    def frontier(self, recipe: str, target: str) -> Path:
        """What benchmarks/frontier.py measured of a recipe and others of the same network, for the report."""
        return self.dist / f"{recipe}-{target}.frontier.json"

    def recipe_names(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self.recipes.glob("*.yaml")))

    def recipe_path(self, name_or_path: str) -> Path:
        """The file of a recipe, given as `signs` or as a path (relative to the working folder or to the project).

        Raises UsageError where there is none.
        """
        names = self.recipe_names()
        if name_or_path in names:
            return self.recipes / f"{name_or_path}.yaml"
        for path in (Path(name_or_path), self.root / name_or_path):
            if path.is_file():
                return Path(os.path.normpath(path.absolute()))
        meant = did_you_mean(Path(name_or_path).stem, names, otherwise="The recipes are")
        raise UsageError(
            f"there is no recipe '{name_or_path}'. {meant}",
            hint=f"`ls {self.recipes}` lists the recipes; `enginewright init` writes one to start from",
        )

    def code_folder(self, recipe: Path, code: str | None = None) -> Path:
        """The folder beside a recipe's file with its Python and its weights: of the name `code`, or of the recipe's.

        It need not exist.
        """
        return recipe.absolute().with_name(code or recipe.stem)

    def locate(self, recipe: Path, written: str, *, code: str | None = None) -> Path:
        """Where a path that stands in a recipe's file lies; whether it is there is not looked at.

        Relative to the recipe's folder, or to the project where it starts with ./ or ../ (or /).
        """
        base = self.root if written.startswith(("/", "./", "../")) else self.code_folder(recipe, code)
        return Path(os.path.normpath(base / written))


def find_project(start: Path, *, environment: Mapping[str, str] = os.environ) -> Project:
    """The project that `start` lies in: the nearest folder, from `start` upward, that has `recipes/`.

    The store is `.enginewright/` in it, or what ENGINEWRIGHT_STORE says (relative to the project). Raises UsageError
    where there is no project.
    """
    start = start.resolve()
    for root in (start, *start.parents):
        if (root / "recipes").is_dir():
            return Project(root, root / _store_of(environment))
    raise UsageError(
        f"there is no project here: neither {start} nor a folder above it has a folder 'recipes'",
        hint="`enginewright init` makes a project with a recipe that builds",
    )


def _store_of(environment: Mapping[str, str]) -> Path:
    written = environment.get(STORE_VARIABLE) or ".enginewright"
    try:
        return Path(written).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{STORE_VARIABLE} is '{written}', and there is no such home folder", hint="write the path out"
        ) from None
