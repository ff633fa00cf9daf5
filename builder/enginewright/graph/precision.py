"""Which layers compute in int8: decided from what was measured of each, and nothing else.

A layer's precision is worth what it saves on the target and costs what it adds to the noise of the outputs. The
decisions are here, as functions of measured figures; taking them is the stage `assign_precision`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from enginewright.graph.dialects import Dialect
from enginewright.graph.normal_form import normal_form
from enginewright.graph.placement import place
from enginewright.graph.rules import Kind, kind
from enginewright.graph.topology import Topology
from enginewright.stopwatch import Saving

__all__ = [
    "FORMAT",
    "Sensitivity",
    "fewest_kept_float",
    "layers_with_a_choice",
    "most_noise_for_the_time",
    "pattern_of",
]

FORMAT = 1  # of the JSON form. 1: the first.


@dataclass(frozen=True)
class Sensitivity:
    """What int8 in this layer alone does to the outputs: signal to noise in dB, and the metric that is lost."""

    snr_db: float
    accuracy_drop: float


def layers_with_a_choice(network: onnx.ModelProto, dialect: Dialect) -> list[str]:
    """The layers that `dialect` can compute in int8, by their node's name in graph order."""
    plain = normal_form(network)
    quantized = set(place(plain, dialect).quantized)
    view = Topology(plain)
    return [node.name for node in view.nodes if node.name in quantized and kind(node, view) is Kind.WEIGHTED]


def most_noise_for_the_time(sensitivities: Mapping[str, Sensitivity], savings: Mapping[str, Saving]) -> list[str]:
    """The layers in the order in which they should return to float: the most noise first for the time that it costs.

    The noise powers of layers add up at the outputs as long as they are small, so a layer's price is its noise power
    divided by the time that int8 saves there.
    """

    def price(layer: str) -> float:
        noise = 10 ** (-sensitivities[layer].snr_db / 10)
        return noise / max(savings[layer].median_ns, 1.0)

    return sorted(sensitivities, key=price, reverse=True)


def fewest_kept_float(order: Sequence[str], *, holds: Callable[[Sequence[str]], bool]) -> list[str]:
    """The shortest beginning of `order` for which `holds` is true, found by bisection; all of it must hold.

    `holds` is asked about log2(len(order)) times, and never about the whole.

    >>> fewest_kept_float(["a", "b", "c", "d", "e"], holds=lambda kept: "c" in kept)
    ['a', 'b', 'c']
    """
    low, high = 0, len(order)  # the answer is more than low - 1 and at most high
    while low < high:
        middle = (low + high) // 2
        if holds(order[:middle]):
            high = middle
        else:
            low = middle + 1
    return list(order[:high])


def pattern_of(layer: str) -> str:
    """The pattern that matches this name and no other: names of nodes may hold what patterns give a meaning.

    >>> pattern_of("block[0].conv"), fnmatch.fnmatchcase("block[0].conv", pattern_of("block[0].conv"))
    ('block[[]0].conv', True)
    """
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in layer)
