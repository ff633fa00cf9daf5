"""Finding and replacing the modules of a network by their path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from enginewright.errors import DataError, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["kept_modules", "module_at", "replace_module"]


def module_at(network: nn.Module, path: str) -> nn.Module:
    """The module at `path`. Raises DataError where there is none: the recipe's Python is not what it was."""
    try:
        return network.get_submodule(path)
    except AttributeError as error:
        raise DataError(
            f"the network has no module '{path}', which the checkpoint's architecture names",
            hint="was model.py changed?",
        ) from error


def replace_module(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` where `path` leads, in place. Raises DataError where nothing is there."""
    module_at(network, path)
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).register_module(name, module)


def kept_modules(network: nn.Module, names: Iterable[str], *, key: str) -> frozenset[str]:
    """The paths of the modules that `names` names, and of all within them. `key` is where the recipe names them.

    Raises DataError for a name that is no module of the network.
    """
    paths = [path for path, _ in network.named_modules() if path]
    for name in names:
        if name not in paths:
            near = nearest(name, paths)
            raise DataError(
                f"{key} names '{name}', which is no module of the network",
                hint=f"did you mean '{near}'?" if near else f"its modules are: {', '.join(paths[:12])}, ...",
            )
    return frozenset(path for path in paths if any(path == name or path.startswith(f"{name}.") for name in names))
