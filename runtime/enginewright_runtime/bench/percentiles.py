"""Percentiles as they are shown: only where the samples carry them."""

from __future__ import annotations

from collections.abc import Sequence

from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.stats import percentile

PERCENTS = (50.0, 99.0, 99.9)


def percentiles_ns(samples_ns: Sequence[int]) -> dict[str, Json]:
    """By name; null where the samples do not carry it.

    >>> percentiles_ns(range(1, 301))
    {'p50': 150.0, 'p99': 297.0, 'p99.9': None}
    """
    found: dict[str, Json] = {}
    for percent in PERCENTS:
        try:
            found[f"p{percent:g}"] = percentile(samples_ns, percent)
        except NotEnoughSamples:
            found[f"p{percent:g}"] = None
    return found


def percentile_lines(samples_ns: Sequence[int]) -> list[str]:
    """A line each, or why there is none.

    >>> percentile_lines([2_000_000] * 30)[:2]
    ['  p50   2 ms', '  p99 needs 299 samples or more, and there are 30']
    """
    lines = []
    for percent in PERCENTS:
        try:
            lines.append(f"  p{percent:<5g}{percentile(samples_ns, percent) / 1e6:.4g} ms")
        except NotEnoughSamples as error:
            lines.append(f"  {error.message}")
    return lines
