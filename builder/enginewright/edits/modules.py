"""Finding and replacing the modules of a network by their path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginewright.errors import DataError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["module_at", "replace_module"]


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
