"""Folded batch norms: the layer before each has taken its scale and shift into its own weight and bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginewright.edits.modules import module_at, replace_module
from enginewright.errors import DataError
from enginewright_runtime.canonical import Json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FoldedNorms"]


@dataclass(frozen=True)
class FoldedNorms:
    """`norms` maps the path of a convolution or a linear layer, which has a bias now, to that of the batch norm behind
    it, which passes on what it is given.
    """

    KIND: ClassVar[str] = "folded_norms"

    norms: Mapping[str, str]

    def apply(self, network: nn.Module) -> None:
        """New biases are zero: those of the checkpoint are loaded into them."""
        from torch import nn

        for path, norm in self.norms.items():
            _give_bias(path, module_at(network, path))
            replace_module(network, norm, nn.Identity())

    def to_json(self) -> Json:
        return dict(sorted(self.norms.items()))

    @classmethod
    def from_json(cls, content: Any) -> FoldedNorms:
        return cls(dict(content))


def _give_bias(path: str, layer: Any) -> None:
    import torch
    from torch import nn

    channels = getattr(layer, "out_channels", None) or getattr(layer, "out_features", None)
    if channels is None or not hasattr(layer, "bias"):
        raise DataError(
            f"module '{path}' is a {type(layer).__name__}, and the checkpoint's architecture has a batch norm folded into it",
            hint="was model.py changed?",
        )
    if layer.bias is None:
        weight = layer.weight
        layer.bias = nn.Parameter(torch.zeros(channels, dtype=weight.dtype, device=weight.device))
