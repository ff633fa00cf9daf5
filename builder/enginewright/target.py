"""What a valid target is: a device as data, and where targets are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from enginewright.errors import Problem, TargetError, UsageError, did_you_mean
from enginewright.reader import named_as_its_file, parse
from enginewright.schema import RULE, Json, Rule
from enginewright.source import parse_yaml, read_text, shown

if TYPE_CHECKING:
    from enginewright.project import Project

__all__ = ["Target", "catalogue", "load_target", "load_targets"]

_PACKAGED = Path(__file__).parent / "catalogue"
_REPOSITORY = Path(__file__).parents[2] / "targets"  # where an editable install has the same files


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device that engines are made for.

    `path` is its file.
    """

    target: Literal[1] = field(
        metadata={
            RULE: Rule(
                "version of the target language: 1", words="1, the only version of the target language that is read"
            )
        }
    )
    name: str = field(
        metadata={
            RULE: Rule(
                "the name of the file, without .yaml",
                pattern=r"[a-z0-9][a-z0-9-]*",
                words="a name of small letters, digits and '-'",
            )
        }
    )
    summary: str = field(default="", metadata={RULE: Rule("one line for lists and reports")})
    backend: Literal["onnxruntime", "openvino"] = field(metadata={RULE: Rule("what compiles and runs the engine")})
    build: Literal["here"] = field(
        metadata={RULE: Rule("where the engine is compiled: here is the computer that runs the build")}
    )
    threads: int = field(metadata={RULE: Rule("threads that one inference may use", minimum=1, unit="threads")})
    channel_multiple: int = field(
        default=8,
        metadata={
            RULE: Rule("multiple of channels that its kernels work in: what prune rounds to", minimum=1, maximum=128)
        },
    )
    path: Path = field(default=Path(), compare=False)

    def engine_settings(self) -> dict[str, Json]:
        """What the backend is told when it compiles and opens an engine for this target."""
        return {"threads": self.threads}


def load_target(name: str, catalogue_folders: Sequence[Path]) -> Target:
    """The target called `name`, from the first of the folders that has it.

    Raises UsageError where there is none of that name, TargetError with every problem of its file.
    """
    files = _files(catalogue_folders)
    if name not in files:
        raise UsageError(
            f"there is no target '{name}'. {did_you_mean(name, files, otherwise='The targets are')}",
            hint="`enginewright targets` lists them; a project's own are files in its targets/ folder",
        )
    return _read(files[name])


def load_targets(catalogue_folders: Sequence[Path]) -> tuple[Target, ...]:
    """Every target of the folders, by name; the first folder that has a name wins.

    Raises TargetError with the problems of all files.
    """
    targets: list[Target] = []
    problems: list[Problem] = []
    for _, path in sorted(_files(catalogue_folders).items()):
        try:
            targets.append(_read(path))
        except TargetError as error:
            problems.extend(error.problems)
    if problems:
        raise TargetError(problems)
    return tuple(targets)


def catalogue(project: Project | None) -> tuple[Path, ...]:
    """The folders where targets are looked for: the project's own first, then those that come with enginewright."""
    packaged = _PACKAGED if _PACKAGED.is_dir() else _REPOSITORY
    own = () if project is None or project.targets.resolve() == packaged.resolve() else (project.targets,)
    return (*own, packaged)


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            files.setdefault(path.stem, path)
    return files


def _read(path: Path) -> Target:
    document = parse_yaml(read_text(path, error=TargetError), label=shown(path))
    target = parse(Target, document, error=TargetError, checks=(named_as_its_file(path),))
    return replace(target, path=path.absolute())
