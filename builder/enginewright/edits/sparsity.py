"""2:4 sparsity: of every four weights along the input channels, two are zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginewright.edits.modules import module_at
from enginewright_runtime.canonical import Json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Sparse", "hold_zeros"]


@dataclass(frozen=True)
class Sparse:
    """The weights of the named modules have their zeros to keep: training must not fill them in."""

    KIND: ClassVar[str] = "sparse"

    modules: tuple[str, ...]

    def apply(self, network: nn.Module) -> None:
        """Zeros change no structure; that the modules are there is all there is to see to."""
        for path in self.modules:
            module_at(network, path)

    def to_json(self) -> Json:
        return list(self.modules)

    @classmethod
    def from_json(cls, content: Any) -> Sparse:
        return cls(tuple(content))


def hold_zeros(network: nn.Module, architecture: Iterable[object]) -> Callable[[], None]:
    """A function that puts back the zeros of the sparse modules of `architecture`, to be called after each step of an
    optimizer.

    The zeros are those of the weights as they are now, where they are now: call this once the network has its weights,
    its device and its memory layout. Without a sparse module the function does nothing.
    """
    import torch

    modules = [path for edit in architecture if isinstance(edit, Sparse) for path in edit.modules]
    weights: list[Any] = [module_at(network, path).weight for path in dict.fromkeys(modules)]
    if not weights:
        return lambda: None
    # Masks in the weights' own type and layout, multiplied in one call for all layers.
    masks = [(weight.detach() != 0).to(weight.dtype) for weight in weights]

    def hold() -> None:
        with torch.no_grad():
            torch._foreach_mul_(weights, masks)

    return hold
