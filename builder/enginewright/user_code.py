"""Calls the recipe's own Python: model, data and metric factories. What they raise is shown as the user's, with the
user's traceback.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enginewright.errors import UserCodeError
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


@contextmanager
def users(doing: str) -> Iterator[None]:
    """Whatever the block raises is the fault of the recipe's own code, and is reported as such."""
    try:
        yield
    except EnginewrightError:
        raise
    except (Exception, SystemExit) as error:
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
