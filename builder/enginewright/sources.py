"""The content that a recipe brings from outside the store: its Python, its weights, and every file or folder that an
argument names.

A step's key holds the digests of these and never their places, so moving a project rebuilds nothing and changing one
byte rebuilds what used it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from enginewright.compression import Student
from enginewright.errors import DataError
from enginewright.project import Project
from enginewright.recipe import Recipe
from enginewright_runtime.canonical import Json, canonical_bytes, sha256_file, sha256_hex

__all__ = ["FILES", "Source", "Sources", "gather_sources", "place_sources"]


@dataclass(frozen=True)
class Source:
    """`digest` is the content's sha256 and enters keys; `location` is where it lies on this computer and does not."""

    digest: str
    location: str


FILES = ("weights", "onnx", "frontier")  # the labels of single files, which a step reads like its inputs


@dataclass(frozen=True)
class Sources:
    """`code`, `files` and `arguments` map a label ("code/model.py", "weights", "data.arguments.root") to its source."""

    code: Mapping[str, Source]
    files: Mapping[str, Source]
    arguments: Mapping[str, Source]

    def arguments_of(self, part: str) -> Mapping[str, Source]:
        """The sources that the arguments of `part` ("data", "model" or "metric") name."""
        return {label: source for label, source in self.arguments.items() if label.startswith(f"{part}.")}

    def content_of(self, where: str, value: object) -> Json:
        """`value` with every string that names a file or folder replaced by {"source": label}."""
        if where in self.arguments:
            return {"source": where}
        if isinstance(value, Mapping):
            return {str(key): self.content_of(f"{where}.{key}", item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.content_of(f"{where}.{index}", item) for index, item in enumerate(value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"{where} is a {type(value).__name__}, which no YAML scalar gives")


def place_sources(value: Json, sources: Mapping[str, Source]) -> Json:
    """The inverse of `Sources.content_of`: {"source": label} becomes the place where that content lies."""
    if isinstance(value, dict):
        if set(value) == {"source"} and value["source"] in sources:
            return sources[str(value["source"])].location
        return {key: place_sources(item, sources) for key, item in value.items()}
    if isinstance(value, list):
        return [place_sources(item, sources) for item in value]
    return value


def gather_sources(recipe: Recipe, project: Project, *, target: str) -> Sources:
    """Digest everything that `recipe` names, and the frontier that was measured of it for `target`, where there is one.

    Raises DataError where the weights or the network are not there.
    """
    code_folder = project.code_folder(recipe.path, recipe.code)
    if recipe.code is not None and not code_folder.is_dir():
        raise DataError(
            f"{recipe.path}: code: there is no folder {code_folder}",
            hint="name the folder of another recipe, or leave `code` out",
        )
    code = {
        f"code/{path.relative_to(code_folder).as_posix()}": Source(sha256_file(path), str(path))
        for path in sorted(code_folder.rglob("*.py"))
    }
    files = {}
    for label, written in (("weights", recipe.model.weights), ("onnx", recipe.model.onnx)):
        if written is not None:
            path = project.locate(recipe.path, written, code=recipe.code)
            files[label] = Source(_digest_of_file(path, label, recipe), str(path))
    frontier = project.frontier(recipe.name, target)
    if frontier.is_file():
        files["frontier"] = Source(_digest_of_file(frontier, "frontier", recipe), str(frontier))
    arguments = {}
    parts = [("data", recipe.data.arguments), ("model", recipe.model.arguments)]
    parts += [("student", step.arguments) for step in recipe.compress if isinstance(step, Student)]
    if not isinstance(recipe.metric, str):
        parts.append(("metric", recipe.metric.arguments))
    for part, values in parts:
        for where, text in _strings(f"{part}.arguments", values):
            path = project.root / text
            if text.strip() and _is_content(path, project):
                arguments[where] = Source(_digest_of_argument(path, where, recipe), text)
    return Sources(code, files, arguments)


def _is_content(path: Path, project: Project) -> bool:
    """Whether a text names a file or a folder whose content can enter a key.

    A device has no content, and the project's own folder, or one above it, holds the store: such texts ("/", ".") are
    separators rather than data.
    """
    try:
        return path.is_file() or (path.is_dir() and not project.root.is_relative_to(path.resolve()))
    except OSError:
        return False  # too long for a path, or in a folder that nobody may look into


def _digest_of_argument(path: Path, where: str, recipe: Recipe) -> str:
    try:
        return _digest_of_tree(path) if path.is_dir() else sha256_file(path)
    except OSError as error:
        raise DataError(
            f"{recipe.path}: {where}: {error.filename or path}: {error.strerror}", hint="make it readable"
        ) from None


def _digest_of_file(path: Path, label: str, recipe: Recipe) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError:
        raise DataError(
            f"{recipe.path}: model.{label}: there is no file {path}", hint=_how_to_get(label, recipe)
        ) from None
    except OSError as error:
        hint = f"name a file that can be read in model.{label}"
        raise DataError(f"{recipe.path}: model.{label}: {path}: {error.strerror}", hint=hint) from None


def _how_to_get(label: str, recipe: Recipe) -> str:
    """What the recipe itself offers: a script that trains the weights, or variables to set."""
    if label == "weights" and recipe.path.with_suffix("").joinpath("train.py").is_file():
        return f"make train RECIPE={recipe.name}"
    variables = sorted(set(re.findall(r"\benv\.(\w+)", recipe.path.read_text(encoding="utf-8"))))
    if variables:
        return f"set {' and '.join(variables)} to where your data is (the comments of {recipe.path.name} say what is looked for)"
    return f"put the file there, or correct model.{label} in {recipe.path}"


def _digest_of_tree(folder: Path) -> str:
    """One digest for a folder: of the relative names and digests of all its files, those behind links included.

    Hidden files do not count.
    """
    files: dict[str, Json] = {_spelled(path.relative_to(folder)): sha256_file(path) for path in _files_below(folder)}
    return sha256_hex(canonical_bytes(files))


def _files_below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link that leads back up: its files have been counted
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _spelled(path: Path) -> str:
    """A name as text, also where its bytes are not UTF-8."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _strings(where: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(f"{where}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _strings(f"{where}.{index}", item)
