"""Factors: a linear layer or a convolution whose place is taken by two or three thinner ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginewright.edits.modules import module_at, replace_module
from enginewright.errors import DataError
from enginewright_runtime.canonical import Json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Factorized", "Ranks"]


@dataclass(frozen=True)
class Ranks:
    """How many channels the core has of its own: `inputs` come from a pointwise layer `first` in front of it, `outputs`
    go to a pointwise layer `last` behind it. None: that layer is left out, and the core has the channels of before.
    """

    inputs: int | None = None
    outputs: int | None = None


@dataclass(frozen=True)
class Factorized:
    """Each named module is a sequence of `first`, `core` and `last`: a Tucker-2 decomposition (Kim et al. 2016), or with
    one rank of the two the product of two matrices.

    `core` has the kernel, stride, padding and dilation of before; the others have one weight a pair of channels. The
    layer at the end has the bias.
    """

    KIND: ClassVar[str] = "factorized"

    modules: Mapping[str, Ranks]

    def apply(self, network: nn.Module) -> None:
        """The new layers have weights of no meaning: those of the checkpoint are loaded into them."""
        for path, ranks in self.modules.items():
            replace_module(network, path, _factors(path, module_at(network, path), ranks))

    def to_json(self) -> Json:
        return {
            path: {"inputs": ranks.inputs, "outputs": ranks.outputs} for path, ranks in sorted(self.modules.items())
        }

    @classmethod
    def from_json(cls, content: Any) -> Factorized:
        return cls({path: Ranks(item["inputs"], item["outputs"]) for path, item in content.items()})


def _factors(path: str, module: nn.Module, ranks: Ranks) -> nn.Module:
    from torch import nn

    # By name, not by instance: what a subclass adds would be lost.
    if type(module) not in (nn.Linear, nn.Conv2d):
        raise DataError(
            f"module '{path}' is a {type(module).__name__}, and the checkpoint's architecture has factors for it",
            hint="was model.py changed?",
        )
    layer: Any = module
    convolution = isinstance(module, nn.Conv2d)
    outputs, inputs = layer.weight.shape[:2]
    core_inputs, core_outputs = ranks.inputs or inputs, ranks.outputs or outputs
    shared = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    bias = layer.bias is not None

    def pointwise(before: int, after: int, *, bias: bool) -> nn.Module:
        if convolution:
            return nn.Conv2d(before, after, 1, bias=bias, **shared)
        return nn.Linear(before, after, bias=bias, **shared)

    factors: OrderedDict[str, nn.Module] = OrderedDict()
    if ranks.inputs is not None:
        factors["first"] = pointwise(inputs, core_inputs, bias=False)
    core_bias = bias and ranks.outputs is None
    if convolution:
        geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "padding_mode")}
        factors["core"] = nn.Conv2d(core_inputs, core_outputs, layer.kernel_size, bias=core_bias, **geometry, **shared)
    else:
        factors["core"] = pointwise(core_inputs, core_outputs, bias=core_bias)
    if ranks.outputs is not None:
        factors["last"] = pointwise(core_outputs, outputs, bias=bias)
    return nn.Sequential(factors).train(module.training)
