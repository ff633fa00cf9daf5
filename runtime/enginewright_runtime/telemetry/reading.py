"""One reading of the machine's sensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from enginewright_runtime.canonical import Json


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the sensors say at one moment, each figure by the name of its sensor.

    `throttles` only grow: two readings tell what happened between them. `held_back_by`: what keeps a GPU's clocks below
    what was asked for, right now.
    """

    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    power_w: Mapping[str, float] = field(default_factory=dict)
    throttles: Mapping[str, int] = field(default_factory=dict)
    held_back_by: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The reading as a JSON object."""
        return dict(vars(self))

    @property
    def hottest_c(self) -> float | None:
        """The highest of the temperatures."""
        return max(self.temperatures_c.values(), default=None)

    def throttled_since(self, earlier: Reading) -> dict[str, int]:
        """By how much each counter has grown; those that did not are left out.

        >>> Reading(throttles={"cpu": 7, "oc1": 2}).throttled_since(Reading(throttles={"cpu": 4, "oc1": 2}))
        {'cpu': 3}
        """
        grown = {name: count - earlier.throttles.get(name, count) for name, count in self.throttles.items()}
        return {name: count for name, count in grown.items() if count > 0}


def merged(readings: Iterable[Reading]) -> Reading:
    """The figures of several sources as one reading; a name that two of them use is numbered."""
    parts = list(readings)
    return Reading(
        temperatures_c=_joined(part.temperatures_c for part in parts),
        clocks_mhz=_joined(part.clocks_mhz for part in parts),
        power_w=_joined(part.power_w for part in parts),
        throttles={name: count for part in parts for name, count in part.throttles.items()},
        held_back_by=tuple(sorted({reason for part in parts for reason in part.held_back_by})),
    )


def _joined(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            found[free_name(name, found)] = value
    return found


def free_name(name: str, taken: Iterable[str]) -> str:
    """A name that is not taken: the name itself, or with a number.

    >>> free_name("cpu", ["gpu"]), free_name("cpu", ["cpu", "cpu 2"])
    ('cpu', 'cpu 3')
    """
    used = set(taken)
    numbered = (name if number == 1 else f"{name} {number}" for number in range(1, len(used) + 2))
    return next(candidate for candidate in numbered if candidate not in used)
