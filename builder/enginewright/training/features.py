"""What the named modules of a network give while it runs, and how alike two networks attend.

Attention transfer: Zagoruyko and Komodakis, "Paying more attention to attention" (ICLR 2017), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from enginewright.errors import DataError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Features", "attention_distance", "attention_map"]


class Features:
    """Watches `network`, which `whose` names in errors. Raises DataError for a name that is no module of it."""

    def __init__(self, network: nn.Module, names: Sequence[str], *, whose: str) -> None:
        self._names, self._whose = tuple(names), whose
        self._seen: dict[str, object] = {}
        modules = dict(network.named_modules())
        for name in names:
            if name not in modules:
                known = [path for path in modules if path]
                near = nearest(name, known)
                raise DataError(
                    f"distill.features names '{name}', which is no module of the {whose}",
                    hint=f"did you mean '{near}'?" if near else f"its modules are: {', '.join(known[:12])}, ...",
                )
            modules[name].register_forward_hook(self._keeper(name))

    def take(self) -> dict[str, torch.Tensor]:
        """The outputs of the last run by name, in float32; they are held no longer.

        Raises DataError where one is no tensor of (samples, channels, positions ...), or was not made at all.
        """
        import torch

        seen, self._seen = self._seen, {}
        for name in self._names:
            value = seen.get(name)
            if not isinstance(value, torch.Tensor) or value.ndim < 3:
                gives = "is not run" if name not in seen else f"gives {_shape(value)}"
                raise DataError(
                    f"distill.features names '{name}', which {gives} in the {self._whose}: attention maps need "
                    "(samples, channels, positions ...)",
                    hint="name a module that gives the feature maps of a convolution, as a stage or a block",
                )
        return {name: value.float() for name, value in seen.items() if isinstance(value, torch.Tensor)}

    def _keeper(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def keep(module: nn.Module, inputs: object, output: object) -> None:
            self._seen[name] = output

        return keep


def attention_map(features: torch.Tensor) -> torch.Tensor:
    """Where a layer looks: the mean over the channels of the squares, scaled to length one for each sample.

    (samples, channels, positions ...) -> (samples, all positions)
    """
    from torch.nn.functional import normalize

    return normalize(features.square().mean(1).flatten(1), dim=1)


def attention_distance(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """The squared distance of two attention maps, mean over the samples: from 0, alike, to 2, where one looks at
    nothing that the other looks at.

    Raises DataError where the features of `name` differ in their positions; channels may differ.
    """
    if ours.shape[2:] != theirs.shape[2:]:
        raise DataError(
            f"the features of '{name}' are {_size(ours)} in the student and {_size(theirs)} in the teacher",
            hint="name modules under distill.features that give maps of one size in both",
        )
    difference = attention_map(ours) - attention_map(theirs)
    return difference.square().sum(1).mean()


def _size(features: torch.Tensor) -> str:
    return "x".join(str(size) for size in features.shape[2:])


def _shape(value: object) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" if shape is None else f"the shape {list(shape)}"
