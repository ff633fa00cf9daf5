"""Integer arithmetic on real numbers: values are rounded to those that int8 can hold, and gradients pass as if they
were not.

Weights: straight-through gradients (Bengio et al. 2013), with the scale of the largest weight of each output channel,
which is what `graph.integers` gives them. Activations: both ends of the range are learned. The gradients are those of
LSQ (Esser et al., ICLR 2020) and LSQ+ (Bhalgat et al. 2020), written for the ends of the range instead of scale and
offset; the ends are learned as logarithms, as in TQT (Jain et al., MLSys 2020), so that a step of Adam is a share of
the range, whatever its size.
"""

from __future__ import annotations

from typing import Any

# Only the steps that train with int8 simulated import this module, whose classes derive from torch's.
# ruff: noqa: TID253
import torch
from torch import nn

from enginewright.graph.dialects import Dialect
from enginewright.graph.methods import Range

__all__ = ["IntegerActivation", "IntegerWeight"]

_SMALLEST = 2.0**-60


class IntegerWeight(nn.Module):
    """A parametrization of a weight whose output channels lie along `axis`."""

    def __init__(self, axis: int, limit: int) -> None:
        super().__init__()
        self._axis, self._limit = axis, limit

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        others = [axis for axis in range(weight.ndim) if axis != self._axis]
        plain = weight.detach()
        scale = (plain.abs().amax(others, keepdim=True) / self._limit).clamp_min(_SMALLEST)
        rounded = (plain / scale).round_() * scale
        return weight + (rounded - plain)


class IntegerActivation(nn.Module):
    """Rounds to the integers of a dialect within a range that is learned, from `start` on."""

    start: torch.Tensor

    def __init__(self, start: Range, dialect: Dialect) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor([min(start.low, 0.0), max(start.high, 0.0)]))
        self.growth = nn.Parameter(torch.zeros(2))  # of each end, as a logarithm
        self._limits, self._symmetric = dialect.activation_limits, dialect.symmetric

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not values.is_floating_point():
            return values
        result: torch.Tensor = _Rounded.apply(values.float(), self._ends(), self._limits, self._symmetric)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return result

    def range(self) -> Range:
        low, high = self._ends().tolist()
        return Range(low, high)

    def _ends(self) -> torch.Tensor:
        return self.start * self.growth.exp()


class _Rounded(torch.autograd.Function):
    """values, (low, high) -> the nearest of the integers' real values."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, ends: torch.Tensor, limits: tuple[int, int], symmetric: bool
    ) -> torch.Tensor:
        first, last = limits
        low, high = ends.unbind()
        # As in graph.integers.quantizer.
        if symmetric:
            scale = torch.maximum(-low, high).clamp_min(_SMALLEST) / last
            zero_point = torch.zeros_like(scale, dtype=torch.int32)
        else:
            scale = (high - low).clamp_min(_SMALLEST) / (last - first)
            zero_point = (first - low / scale).round().clamp(first, last).to(torch.int32)
        result = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, first, last)
        ctx.save_for_backward(values, result, ends, scale, zero_point)
        ctx.limits, ctx.symmetric = limits, symmetric
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        values, result, ends, scale, zero_point = ctx.saved_tensors
        first, last = ctx.limits
        below = values < (first - zero_point) * scale
        above = values > (last - zero_point) * scale
        cut = below | above
        from_below, from_above = (gradient * below).sum(), (gradient * above).sum()
        # Inside, the result moves with the scale by its own rounding error in steps.
        inside = (gradient * (result - values)).masked_fill(cut, 0.0).sum() / scale
        if ctx.symmetric:
            by_scale = inside + from_below * first + from_above * last
            larger = torch.stack([-ends[0] > ends[1], -ends[0] <= ends[1]])
            by_ends = torch.where(larger, by_scale / last, 0.0) * torch.tensor([-1.0, 1.0], device=ends.device)
        else:
            by_steps = inside / (last - first)
            by_ends = torch.stack([from_below - by_steps, from_above + by_steps])
        return gradient.masked_fill(cut, 0.0), by_ends, None, None
