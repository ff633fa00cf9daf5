"""Integer arithmetic on real numbers: values are rounded to those that int8 can hold, and gradients pass as if they
were not.

Weights: straight-through gradients (Bengio et al. 2013), with the scale of the largest weight of each output channel,
which is what `graph.integers` gives them. Activations: both ends of the range are learned. The gradients are those of
LSQ (Esser et al., ICLR 2020) and LSQ+ (Bhalgat et al. 2020), written for the ends of the range instead of scale and
offset; the ends are learned as logarithms, as in TQT (Jain et al., MLSys 2020), so that a step of Adam is a share of
the range, whatever its size.
"""

from __future__ import annotations

import math
from typing import Any

# Only the steps that train with int8 simulated import this module, whose classes derive from torch's.
# ruff: noqa: TID253
import torch
from torch import nn

from enginewright.graph.dialects import Dialect
from enginewright.graph.methods import Range

__all__ = ["IntegerActivation", "IntegerWeight"]

_SMALLEST = 2.0**-60
_HALF_A_STEP = 0.501  # what rounding moves a value by at most; a little more, since that may be kept in bfloat16


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
        result: torch.Tensor = _Rounded.apply(values, self._ends(), self._limits, self._symmetric)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return result

    def range(self) -> Range:
        low, high = self._ends().tolist()
        return Range(low, high)

    def _ends(self) -> torch.Tensor:
        return self.start * self.growth.exp()


class _Rounded(torch.autograd.Function):
    """values, (low, high) -> the nearest of the integers' real values.

    Computed in float32, step by step in place: torch's own operator is several times slower on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, ends: torch.Tensor, limits: tuple[int, int], symmetric: bool
    ) -> torch.Tensor:
        first, last = limits
        low, high = ends.unbind()
        # As in graph.integers.quantizer.
        if symmetric:
            scale, zero_point = torch.maximum(-low, high).clamp_min(_SMALLEST) / last, torch.zeros_like(low)
        else:
            scale = (high - low).clamp_min(_SMALLEST) / (last - first)
            zero_point = (first - low / scale).round().clamp(first, last)
        steps = (values.float() / scale).add_(zero_point)
        integers = steps.round().clamp_(first, last)
        moved = torch.sub(integers, steps, out=steps)
        ctx.save_for_backward(moved.to(values.dtype), ends)
        ctx.limits, ctx.symmetric = limits, symmetric
        return integers.sub_(zero_point).mul_(scale).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        moved, ends = ctx.saved_tensors
        first, last = ctx.limits
        # hardtanh_backward keeps the gradient where its second argument lies between two numbers, in one pass.
        keep = torch.ops.aten.hardtanh_backward
        passed = keep(gradient, moved, -_HALF_A_STEP, _HALF_A_STEP)
        cut = gradient - passed
        # Inside, the result moves with the scale by its own rounding error in steps; outside, with the end.
        inside, outside = (passed * moved).sum().float(), cut.sum().float()
        from_below = keep(cut, moved, 0.0, math.inf).sum().float()
        from_above = outside - from_below
        if ctx.symmetric:
            by_scale = (inside + from_below * first + from_above * last) / last
            lower = -ends[0] > ends[1]
            by_ends = torch.stack([-by_scale * lower, by_scale * ~lower])
        else:
            by_steps = inside / (last - first)
            by_ends = torch.stack([from_below - by_steps, from_above + by_steps])
        return passed, by_ends, None, None
