"""The layers of the reference beside those of the network that the engine runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from enginewright.report.data import Layer, ReportData
from enginewright.units import NONE, count, file_size


@dataclass(frozen=True)
class BeforeAfter:
    """A figure of the reference's layer and of the engine's; None on a side that lacks the layer.

    >>> BeforeAfter(36_900_000, 12_100_000, count).text, BeforeAfter(640, 640, count).text
    ('36.9 M → 12.1 M', '640')
    """

    reference: int | None
    engine: int | None
    written: Callable[[float], str]

    @property
    def text(self) -> str:
        """Both figures, or one where nothing changed."""
        before, after = (NONE if side is None else self.written(side) for side in (self.reference, self.engine))
        return before if before == after else f"{before} \N{RIGHTWARDS ARROW} {after}"


@dataclass(frozen=True)
class LayerPair:
    """A layer in both networks; None on the side that has none of that name."""

    name: str
    reference: Layer | None
    engine: Layer | None

    @property
    def works(self) -> bool:
        """Whether it holds weights or multiplies on either side; the others are only listed."""
        return any(layer is not None and (layer.macs or layer.weights) for layer in (self.reference, self.engine))

    @property
    def layer(self) -> Layer:
        """The engine's layer, or the reference's where the engine has none."""
        layer = self.engine or self.reference
        assert layer is not None
        return layer

    @property
    def macs(self) -> BeforeAfter:
        return self._both(lambda layer: layer.macs, count)

    @property
    def weights(self) -> BeforeAfter:
        return self._both(lambda layer: layer.weights, count)

    @property
    def weight_bytes(self) -> BeforeAfter:
        return self._both(lambda layer: layer.weight_bytes, file_size)

    def _both(self, figure: Callable[[Layer], int], written: Callable[[float], str]) -> BeforeAfter:
        before, after = (None if layer is None else figure(layer) for layer in (self.reference, self.engine))
        return BeforeAfter(before, after, written)


def paired_layers(data: ReportData) -> tuple[LayerPair, ...]:
    """Layers of both networks matched by name, in the order of the reference; those that only the engine has come last.

    Names need not be unique: the second of a name is matched with the second.
    """
    reference, engine = _by_name(data.reference.layers), _by_name(data.engine.layers)
    return tuple(
        LayerPair(name or "(unnamed)", reference.get((name, nth)), engine.get((name, nth)))
        for name, nth in {**reference, **engine}
    )


def _by_name(layers: Iterable[Layer]) -> dict[tuple[str, int], Layer]:
    seen: dict[str, int] = {}
    result = {}
    for layer in layers:
        nth = seen[layer.name] = seen.get(layer.name, 0) + 1
        result[layer.name, nth] = layer
    return result
