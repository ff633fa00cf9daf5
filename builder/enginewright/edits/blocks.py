"""Removed blocks: modules whose place is taken by a plain connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginewright.edits.modules import replace_module
from enginewright_runtime.canonical import Json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RemovedBlocks"]


@dataclass(frozen=True)
class RemovedBlocks:
    """The named modules give what they are given."""

    KIND: ClassVar[str] = "removed_blocks"

    modules: tuple[str, ...]

    def apply(self, network: nn.Module) -> None:
        from torch import nn

        for path in self.modules:
            replace_module(network, path, nn.Identity())

    def to_json(self) -> Json:
        return list(self.modules)

    @classmethod
    def from_json(cls, content: Any) -> RemovedBlocks:
        return cls(tuple(content))
