"""The project that `enginewright init` writes: a recipe with its Python and its weights, which builds as it is."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Final

from enginewright.errors import UsageError, listed
from enginewright_runtime.atomic import write_file

__all__ = ["STARTER_FILES", "write_starter"]

_SOURCES = Path(__file__).parent / "starter_files"

# Each file of the new project, and what it is a copy of. Python is kept as .txt: it is the user's code, which is neither
# imported nor type-checked nor compiled as a part of this package.
STARTER_FILES: Final = MappingProxyType(
    {
        ".gitignore": "gitignore.txt",
        "Makefile": "Makefile",
        "recipes/starter.yaml": "recipes/starter.yaml",
        "recipes/starter/data.py": "recipes/starter/data.py.txt",
        "recipes/starter/model.py": "recipes/starter/model.py.txt",
        "recipes/starter/starter.safetensors": "recipes/starter/starter.safetensors",
        "recipes/starter/train.py": "recipes/starter/train.py.txt",
        "targets/cpu-two-threads.yaml": "targets/cpu-two-threads.yaml",
    }
)


def write_starter(folder: Path) -> list[Path]:
    """Make a project with one recipe in `folder`, which need not exist, and return the files that were written.

    Raises UsageError where one of the files is there already (and then writes none), or the folder cannot be written.
    """
    in_the_way = [name for name in STARTER_FILES if (folder / name).exists() or (folder / name).is_symlink()]
    if in_the_way:
        raise UsageError(
            f"{folder.absolute()} has {listed(in_the_way)} already, and nothing is overwritten",
            hint="move them away, or name another folder: enginewright init FOLDER",
        )
    try:
        return [_copied(source, folder / name) for name, source in STARTER_FILES.items()]
    except OSError as error:
        raise UsageError(
            f"cannot write {error.filename}: {error.strerror}", hint="name a folder that you may write to"
        ) from error


def _copied(source: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (_SOURCES / source).read_bytes())
    return path
