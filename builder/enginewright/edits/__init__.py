"""How a compressed network differs from the one that its factory makes: edits as data, applied in their order.

A checkpoint carries them beside its weights, so that no step needs a pickled module: the recipe's factory makes the
network, the edits change its structure, and the weights are loaded into that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from enginewright.edits.blocks import RemovedBlocks
from enginewright.edits.channels import Kept, KeptChannels
from enginewright.edits.factors import Factorized, Ranks
from enginewright.edits.modules import kept_modules, module_at, replace_module
from enginewright.edits.norms import FoldedNorms
from enginewright.edits.sparsity import Sparse, hold_zeros
from enginewright.errors import DataError
from enginewright_runtime.canonical import Json

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "EDITS",
    "Architecture",
    "Edit",
    "Factorized",
    "FoldedNorms",
    "Kept",
    "KeptChannels",
    "Ranks",
    "RemovedBlocks",
    "Sparse",
    "apply_edits",
    "architecture_from_json",
    "architecture_to_json",
    "hold_zeros",
    "kept_modules",
    "module_at",
    "replace_module",
]

Edit: TypeAlias = KeptChannels | RemovedBlocks | Factorized | Sparse | FoldedNorms
Architecture: TypeAlias = tuple[Edit, ...]

EDITS: Mapping[str, type[Edit]] = {
    edit.KIND: edit for edit in (KeptChannels, RemovedBlocks, Factorized, Sparse, FoldedNorms)
}


def apply_edits(network: nn.Module, architecture: Architecture) -> None:
    """Change the structure of a network that its factory made, in place.

    Raises DataError where an edit names a module that the network does not have, or one that it cannot change.
    """
    for edit in architecture:
        edit.apply(network)


def architecture_to_json(architecture: Architecture) -> Json:
    return [{"edit": edit.KIND, "modules": edit.to_json()} for edit in architecture]


def architecture_from_json(content: Any) -> Architecture:
    """Raises DataError for an edit of a newer version."""
    for item in content:
        if item["edit"] not in EDITS:
            raise DataError(
                f"the checkpoint has an edit '{item['edit']}', which this version does not know",
                hint="use a newer enginewright",
            )
    return tuple(EDITS[item["edit"]].from_json(item["modules"]) for item in content)
