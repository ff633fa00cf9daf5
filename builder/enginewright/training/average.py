"""A moving average of a network's weights and buffers (Polyak and Juditsky 1992): less noise than the last weights have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """The average of what `network` holds after each update, each weighing `decay` times as much as the next.

    The first updates count for more, or the average would long be that of the weights it began with: the decay of
    update n is at most (1 + n) / (10 + n). With decay 0 it is the weights themselves, and costs nothing.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay, self._updates = network, decay, 0
        held = network.state_dict() if decay else {}
        self._average = {name: value.clone() for name, value in held.items()}

    def update(self) -> None:
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for name, value in self._network.state_dict().items() if self._average else ():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)  # batch normalisation counts its batches

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs, the network holds the average."""
        held = self._network.state_dict()
        own = {name: held[name].clone() for name in self._average}
        for name, value in self._average.items():
            held[name].copy_(value)
        try:
            yield
        finally:
            for name, value in own.items():
                held[name].copy_(value)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self._average

    def restore(self, tensors: Mapping[str, torch.Tensor], *, updates: int) -> None:
        """Go on from the `tensors` of an average after so many updates."""
        self._updates = updates
        for name, value in self._average.items():
            value.copy_(tensors[name])
