"""AdamW (Loshchilov and Hutter 2019) with a learning rate that rises linearly and falls along half a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Optimizer"]

_WARM_UP = 0.05  # share of all updates


class Optimizer:
    """Updates the parameters of `network`, which must have its device and layout; biases, norms and ranges are not
    decayed. `after_update` is called after each update.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        updates: int,
        after_update: Callable[[], None],
    ) -> None:
        import torch

        self._parameters = dict(network.named_parameters())
        decayed = [value for value in self._parameters.values() if value.ndim > 1]
        plain = [value for value in self._parameters.values() if value.ndim <= 1]
        self._adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=learning_rate,
        )
        self._learning_rate, self._after_update = learning_rate, after_update
        self.updates, self.done = updates, 0

    def update(self, loss: torch.Tensor) -> None:
        """Follow the gradients of `loss` by one step."""
        for group in self._adam.param_groups:
            group["lr"] = self._learning_rate * _rate(self.done, self.updates)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it untyped
        self._adam.step()
        self._after_update()
        self.done += 1

    def tensors(self) -> dict[str, torch.Tensor]:
        """The moments of each parameter that has had a gradient."""
        return {
            f"{name}/{moment}": value
            for name, parameter in self._parameters.items()
            for moment, value in self._adam.state.get(parameter, {}).items()
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], *, done: int) -> None:
        """Go on from these moments after so many updates."""
        import torch

        self.done = done
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            parameter = self._parameters[name]
            # Moments lie in memory as their parameter does, as the optimizer itself makes them.
            own = torch.empty_like(value if moment == "step" else parameter)
            self._adam.state[parameter][moment] = own.copy_(value)


def _rate(update: int, updates: int) -> float:
    """The learning rate's factor: linear warm-up, then a half cosine down to nothing."""
    warm_up = max(1, round(updates * _WARM_UP))
    if update < warm_up:
        return (update + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (update - warm_up) / max(1, updates - warm_up)))
