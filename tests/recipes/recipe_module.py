"""A module of a recipe, for tests."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def load_module(recipe: str, name: str) -> Any:
    """Under a name of its own: every recipe has a `model` and a `data`."""
    spec = spec_from_file_location(f"{recipe}_{name}", ROOT / f"recipes/{recipe}/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
