"""Calls the recipe's own Python: model, data and metric factories. What they raise is shown as the user's, with the
user's traceback.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any

from enginewright.errors import NoSpace, UserCodeError
from enginewright_runtime.errors import EnginewrightError

__all__ = ["call_factory", "users"]

_OURS = Path(__file__).parent


def call_factory(description: Mapping[str, Any], code_folder: Path) -> Any:
    """Import `module:Name` from the recipe's folder and call it with the recipe's arguments.

    `description` has `factory` ("module:Name") and `arguments` (keyword arguments). The result is whatever the factory
    gives, hence Any. Raises UserCodeError where the module or the name is missing, or the factory raises.
    """
    module_name, _, name = description["factory"].partition(":")
    if str(code_folder) not in sys.path:
        sys.path_hooks.insert(0, partial(_sources_only, code_folder))
        sys.path.insert(0, str(code_folder))
    with users(f"importing {module_name}.py of {code_folder}"):
        module = importlib.import_module(module_name)
    factory: Any = module
    for part in name.split("."):
        factory = getattr(factory, part, None)
    if factory is None:
        known = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))[:20])
        raise UserCodeError(
            f"{getattr(module, '__file__', None) or module_name} has no '{name}'",
            hint=f"correct the factory '{description['factory']}'; the module has: {known}",
        )
    with users(f"calling {description['factory']}"):
        return factory(**description["arguments"])


class _FreshLoader(SourceFileLoader):
    """Compiles a module from its source, always. Python takes a compiled file for current when the size and the second
    of its source are the same; an edit within that second would run as what it was before, under the key of what it is.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)  # no compiled file is looked for, or written


def _sources_only(code_folder: Path, path: str) -> FileFinder:
    if not Path(path).is_relative_to(code_folder):
        raise ImportError(f"{path} is not in {code_folder}")
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FreshLoader, SOURCE_SUFFIXES))


@contextmanager
def users(doing: str) -> Iterator[None]:
    """Whatever the block raises is the fault of the recipe's own code, and is reported as such."""
    try:
        yield
    except (EnginewrightError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"{doing}: no space left on the disk: {error.filename or 'of its output'}",
                hint="free some space (the folder for temporary files included) and build again",
            ) from error
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [
            frame for frame in frames if Path(frame.filename).parent != _OURS and "importlib" not in frame.filename
        ]
        text = "".join(
            [
                "Traceback of the recipe's code (most recent call last):\n",
                *traceback.format_list(theirs),
                *traceback.format_exception_only(error),
            ]
        )
        raise UserCodeError(
            f"{doing} failed with {type(error).__name__}: {error}",
            traceback=text,
            hint="mend the recipe's code and build again",
        ) from error
