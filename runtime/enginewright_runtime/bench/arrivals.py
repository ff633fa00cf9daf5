"""Frames that arrive at a camera's rate: how long each waits for its answer, and how many deadlines are missed.

A frame is due every period, whether or not the one before it was answered. While an inference runs, the newest frame
waits and older ones are dropped, as a camera's driver does with a queue of one. A frame's response time goes from its
arrival to its answer: the wait for the inference before it and the time that the sleeping process takes to wake up are
in it. Between frames the process sleeps, so that clocks fall and caches cool as they do on a vehicle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enginewright_runtime.canonical import Json
from enginewright_runtime.json_field import JsonField


@dataclass(frozen=True)
class Arrivals:
    """The frames that were answered, of `frames` that arrived.

    `indices`: which frames; `begins_ns` and `ends_ns`: when their inferences began and ended, from the first arrival.
    """

    period_ns: int
    frames: int
    indices: tuple[int, ...]
    begins_ns: tuple[int, ...]
    ends_ns: tuple[int, ...]

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced before their turn came."""
        return self.frames - len(self.indices)

    def responses_ns(self) -> list[int]:
        """From each answered frame's arrival to its answer."""
        return [end - index * self.period_ns for index, end in zip(self.indices, self.ends_ns, strict=True)]

    def services_ns(self) -> list[int]:
        """What each inference took."""
        return [end - begin for begin, end in zip(self.begins_ns, self.ends_ns, strict=True)]

    def waits_ns(self) -> list[int]:
        """From each answered frame's arrival to the beginning of its inference."""
        return [begin - index * self.period_ns for index, begin in zip(self.indices, self.begins_ns, strict=True)]

    def missed(self, deadline_ns: int) -> int:
        """Frames without an answer by their deadline: those answered late, and those dropped.

        >>> Arrivals(100, 3, (0, 2), (0, 200), (30, 350)).missed(80)
        2
        """
        return self.dropped + sum(response > deadline_ns for response in self.responses_ns())

    def to_json(self) -> dict[str, Json]:
        """The frames as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, field: JsonField) -> Arrivals:
        """Read what `to_json` wrote."""
        return cls(
            field.field("period_ns").integer(least=1),
            field.field("frames").integer(least=1),
            *(field.field(name).integers() for name in ("indices", "begins_ns", "ends_ns")),
        )


def take_arrivals(
    infer: Callable[[], object],
    *,
    period_ns: int,
    frames: int,
    clock_ns: Callable[[], int],
    sleep_until: Callable[[int], None],
) -> Arrivals:
    """Answer `frames` frames, one due every `period_ns`, the first one a period from now.

    `sleep_until` returns when `clock_ns` has reached its argument, or later.
    """
    first = clock_ns() + period_ns
    indices: list[int] = []
    begins: list[int] = []
    ends: list[int] = []
    index = 0
    while index < frames:
        due = first + index * period_ns
        if (now := clock_ns()) < due:
            sleep_until(due)
        else:
            index = min((now - first) // period_ns, frames - 1)  # the newest that has arrived
        begins.append(clock_ns() - first)
        infer()
        ends.append(clock_ns() - first)
        indices.append(index)
        index += 1
    return Arrivals(period_ns, frames, tuple(indices), tuple(begins), tuple(ends))
