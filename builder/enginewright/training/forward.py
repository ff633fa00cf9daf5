"""Running a network on a batch as training does: on its device, in its precision, in the layout that is fast there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from enginewright.networks import outputs_of, to_tensors
from enginewright.signature import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

    from enginewright.datasets import Batch

__all__ = ["Forward", "channels_last"]


@dataclass(frozen=True)
class Forward:
    """`precision` is that of the products and convolutions (autocast); the weights stay float32."""

    signature: Signature
    device: torch.device
    precision: str

    def outputs(self, network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            inputs = {name: value.to(self.device) for name, value in to_tensors(batch.inputs).items()}
            last = {
                name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
                for name, value in inputs.items()
            }
            return outputs_of(network, last, self.signature)

    def scores(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The first output, in float32."""
        return next(iter(self.outputs(network, batch).values())).float()


def channels_last(network: nn.Module) -> nn.Module:
    """The layout that the convolution kernels want; convolutions in three dimensions have none of this name."""
    import torch

    if any(value.ndim == 5 for value in network.parameters()):
        return network
    moved: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return moved
