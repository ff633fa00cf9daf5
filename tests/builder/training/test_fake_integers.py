"""Simulated integers are those of the quantizer, and their gradients are LSQ's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.integers import integer_weights, quantizer
from enginewright.graph.methods import Range
from enginewright.graph.rules import Weights
from enginewright.training.fake_integers import IntegerActivation, IntegerWeight

RANGES = [Range(-1.3, 2.9), Range(0.0, 3.1), Range(-2.0, 0.0), Range(-4.0, 0.5), Range(0.0, 2.0**-16)]


def values(range_: Range) -> Tensor:
    """Within the range and well beyond it."""
    reach = max(-range_.low, range_.high)
    return torch.linspace(-2 * reach, 2 * reach, 1001)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("range_", RANGES)
def test_activations_are_rounded_as_the_quantizer_of_the_dialect_rounds(dialect: object, range_: Range) -> None:
    chosen, (first, last) = quantizer(range_, dialect), dialect.activation_limits  # type: ignore[arg-type,attr-defined]
    given = values(range_)
    integers = np.clip(np.rint(given.double().numpy() / chosen.scale) + chosen.zero_point, first, last)
    expected = (integers - chosen.zero_point) * chosen.scale
    ours = IntegerActivation(range_, dialect)(given).detach().numpy()  # type: ignore[arg-type]
    # A value on the edge between two integers may go to either.
    assert np.abs(ours - expected).max() <= chosen.scale * 1.001
    assert (np.abs(ours - expected) > chosen.scale * 1e-3).mean() < 0.01


@pytest.mark.parametrize("limit", [64, 127])
@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 2, 2), 0), ((3, 5, 2, 2), 1), ((5, 7), 0)])
def test_weights_are_rounded_as_the_writer_rounds_them(shape: tuple[int, ...], axis: int, limit: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    dialect = DIALECTS["onnxruntime-x86" if limit == 64 else "tensorrt"]
    integers = integer_weights(Weights("w", weight.numpy(), axis, "", None), 0.1, dialect)
    scale = integers.scale.reshape([-1 if dimension == axis else 1 for dimension in range(weight.ndim)])
    ours = IntegerWeight(axis, limit)(weight)
    np.testing.assert_allclose(ours.numpy(), integers.weight * scale, atol=1e-6)
    assert IntegerWeight(axis, limit)(torch.zeros(shape)).abs().max() == 0


def test_gradients_pass_straight_through_the_rounding_of_weights() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    direction = torch.randn(4, 3)
    (IntegerWeight(0, 127)(weight) * direction).sum().backward()
    assert torch.equal(weight.grad, direction)


def straight(value: Tensor) -> Tensor:
    """Rounds, and has the gradient of not rounding."""
    return value + (value.round() - value).detach()


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "onnxruntime-arm", "tensorrt"])
@pytest.mark.parametrize(("low", "high"), [(-64 / 64, 191 / 64), (0.0, 255 / 64), (-160 / 64, 95 / 64)])
def test_gradients_of_values_and_ends_are_those_of_lsq(dialect: str, low: float, high: float) -> None:
    """Written out with torch's own operators, on ranges in which the zero point is an integer by itself."""
    module = IntegerActivation(Range(low, high), DIALECTS[dialect])
    (first, last), symmetric = DIALECTS[dialect].activation_limits, DIALECTS[dialect].symmetric
    given = (values(Range(low, high)) * 0.9).requires_grad_()
    direction = torch.randn(given.shape, generator=torch.Generator().manual_seed(0))
    (module(given) * direction).sum().backward()
    theirs, ends = given.detach().clone().requires_grad_(), torch.tensor([low, high], requires_grad=True)
    if symmetric:
        scale, shift = torch.maximum(-ends[0], ends[1]) / last, torch.tensor(0.0)
    else:
        scale, shift = (ends[1] - ends[0]) / (last - first), ends[0]
        first, last = 0, last - first
    expected = straight((theirs - shift) / scale).clamp(first, last) * scale + shift
    (expected * direction).sum().backward()
    torch.testing.assert_close(module(given), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.grad, theirs.grad)
    torch.testing.assert_close(module.growth.grad, ends.grad * ends.detach(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "tensorrt"])
@pytest.mark.parametrize("factor", [0.3, 5.0])
def test_a_range_that_is_too_wide_or_too_narrow_is_mended_by_learning(dialect: str, factor: float) -> None:
    given = torch.randn(4000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    module = IntegerActivation(Range(-3 * factor, 3 * factor), DIALECTS[dialect])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
    errors = []
    for _ in range(150):
        error = (module(given) - given).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.2 * errors[0]
    assert 1.5 < module.range().high < 4.0


def test_nothing_below_zero_stays_nothing_below_zero() -> None:
    """A rectifier is absorbed by the quantizer behind it only where the range begins at zero."""
    module = IntegerActivation(Range(0.0, 1.0), DIALECTS["onnxruntime-x86"])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        module(torch.randn(50)).square().sum().backward()
        optimizer.step()
    assert module.range().low == 0.0
    assert module.range().high != 1.0


def test_integers_pass_as_they_are() -> None:
    given = torch.arange(5)
    assert torch.equal(IntegerActivation(Range(0.0, 1.0), DIALECTS["tensorrt"])(given), given)
