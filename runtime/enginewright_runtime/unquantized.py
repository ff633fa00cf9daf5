"""The same network without its Q/DQ pairs, in float16: what an int8 engine on a GPU is compared with.

A badly placed pair makes int8 slower than float16. So both are compiled, timed layer by layer, and measured in the same
sessions. The float16 engine is not kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from enginewright_runtime.backends import Array
from enginewright_runtime.backends.tensorrt import TensorRT
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.canonical import Json, strict_json
from enginewright_runtime.errors import BundleError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.manifest import PendingEngine
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.stats import ratios_of_medians
from enginewright_runtime.tensorrt.comparison import Comparison, compare
from enginewright_runtime.tensorrt.engine_layers import EngineLayer
from enginewright_runtime.tensorrt.examine import Examined, examine

__all__ = ["LABEL", "UNQUANTIZED_NAME", "Unquantized", "compile_unquantized", "surely_slower", "times_faster"]

LABEL = "float16"  # of its samples in a measurement
UNQUANTIZED_NAME = "unquantized.float16.onnx"
_NOTEWORTHY = 0.01  # a share: two equal engines are not told apart beyond it
_FLOORS_NAME = "floors.json"  # says of every layer which precision the network asks for


@dataclass(frozen=True)
class Unquantized:
    """Its engine, how that is opened, and what it tells of itself. `int8_nodes` are those that have pairs in the network that
    ships.
    """

    engine: bytes
    settings: Mapping[str, Json]
    examined: Examined
    int8_nodes: tuple[str, ...]

    def beside(self, layers: Sequence[EngineLayer]) -> Comparison:
        """The layers of the int8 engine beside its own."""
        return compare(layers, self.examined.layers, wanted=self.int8_nodes)


def compile_unquantized(
    bundle: Bundle,
    pending: PendingEngine,
    chosen: TensorRT,
    inputs: Mapping[str, Array],
    *,
    on_phase: Callable[[str, int, int], None] | None = None,
) -> Unquantized:
    """Compile it as the pending engine is compiled, and time it on `inputs`. Raises EngineError with TensorRT's own words."""
    settings: dict[str, Json] = {**pending.settings, "precision": "float16"}
    engine = chosen.build(bundle.read(UNQUANTIZED_NAME), settings, on_phase=on_phase).engine
    with closing(chosen.open(engine, settings)) as opened:
        return Unquantized(engine, settings, examine(opened, inputs), _int8_nodes(bundle))


def times_faster(measurement: Measurement) -> tuple[float, ...]:
    """How many times as fast as in float16 the engine is, session by session, by the medians; empty where float16 was not
    measured.
    """
    if LABEL not in measurement.engines:
        return ()
    return ratios_of_medians(measurement.sessions_ns(LABEL), measurement.sessions_ns("engine"))


def surely_slower(ratios: Sequence[float]) -> bool:
    """Whether an engine is slower by more than a hundredth at the median of its sessions, and in each of them.

    >>> surely_slower([0.90, 0.95, 0.97]), surely_slower([0.90, 0.95, 1.02]), surely_slower([0.995]), surely_slower([])
    (True, False, False, False)
    """
    return bool(ratios) and max(ratios) < 1 and statistics.median(ratios) < 1 - _NOTEWORTHY


def _int8_nodes(bundle: Bundle) -> tuple[str, ...]:
    if _FLOORS_NAME not in bundle.contents:
        return ()
    rows = JsonField(strict_json(bundle.read(_FLOORS_NAME)), _FLOORS_NAME, BundleError).field("layers").items()
    return tuple(row.field("name").text() for row in rows if row.field("precision").text() == "int8")
