"""Latency: the candidate and its baselines side by side, session by session, until the rule decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from enginewright.gate.progress import GateWatch
from enginewright_runtime.backends import Array
from enginewright_runtime.budget import Verdict
from enginewright_runtime.chunk_conditions import ConditionsProbe
from enginewright_runtime.gpu import watched_gpu
from enginewright_runtime.measure import EngineToMeasure, Measuring
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.paired import CHUNK, GATE_WARM_UP, MOST_DROPPED, ROUNDS, PairRecord, pair, share_dropped
from enginewright_runtime.sequential import LOOKS, Decision, PairedSession, Profile, decide
from enginewright_runtime.warm_up import WarmUpRule

__all__ = ["CANDIDATE", "Pairs", "Side", "measure_pairs"]

CANDIDATE = "candidate"
_FEWEST_TO_CALL_UNFIT = 5  # sessions: one of four that is invalid may be chance


@dataclass
class Side:
    """One baseline's pairs so far, and what the rule says of them."""

    pairs: list[PairRecord] = field(default_factory=list)
    sessions: list[PairedSession] = field(default_factory=list)
    decision: Decision | None = None

    @property
    def verdict(self) -> Verdict | None:
        return self.decision.verdict if self.decision else None

    def add(self, record: PairRecord, profile: Profile, comparisons: int) -> None:
        """Count one more session; one that is decided stays as it is."""
        self.pairs.append(record)
        if self.verdict is None and record.statistics is not None:
            self.sessions.append(record.statistics)
            if len(self.sessions) > 1:
                self.decision = decide(self.sessions, profile, comparisons=comparisons)

    def unfit(self) -> str:
        """Why this machine cannot judge, as a clause; empty where it can."""
        share = share_dropped(self.pairs)
        if len(self.pairs) < _FEWEST_TO_CALL_UNFIT or share <= MOST_DROPPED:
            return ""
        reasons = [record.reason for record in self.pairs if record.reason]
        example = f" ({reasons[-1]})" if reasons else ""
        return f"this machine is unfit: {share:.0%} of the rounds had to be dropped, and {MOST_DROPPED:.0%} may be{example}"


@dataclass(frozen=True)
class Pairs:
    """What was measured: each baseline by its label. `stopped` says why it ended without a verdict, as a clause."""

    sides: Mapping[str, Side]
    measurement: Measurement
    stopped: str


def measure_pairs(
    candidate: EngineToMeasure,
    baselines: Mapping[str, EngineToMeasure],
    inputs: Mapping[str, Array],
    profile: Profile,
    *,
    watch: GateWatch,
    max_seconds: float | None = None,
    warm_up: WarmUpRule = GATE_WARM_UP,
    clock: Callable[[], float] = time.monotonic,
) -> Pairs:
    """Take sessions until every baseline is decided, one of them is FAIL, or there is a reason to stop.

    With `max_seconds`, no session begins that would end later, judged by the longest so far. Raises MeasurementError
    where a process dies.
    """
    engines = {**baselines, CANDIDATE: candidate}
    sides = {label: Side() for label in baselines}
    begin, longest, stopped = clock(), 0.0, ""
    with Measuring(
        engines,
        inputs,
        rounds=ROUNDS,
        chunk=CHUNK,
        seed=0,
        warm_up=warm_up,
        probe=ConditionsProbe(gpu=watched_gpu(engine.backend for engine in engines.values())),
        same_cores=True,
    ) as measuring:
        while not stopped and any(side.verdict is None for side in sides.values()):
            started = clock()
            record = measuring.take_session()
            longest = max(longest, clock() - started)
            for label, side in sides.items():
                side.add(pair(record, label, CANDIDATE), profile, len(sides))
            open_sides = [side for side in sides.values() if side.verdict is None]
            watch.session({label: side.decision for label, side in sides.items()}, clock() - begin)
            if any(side.verdict is Verdict.FAIL for side in sides.values()):
                break
            stopped = next((why for side in open_sides if (why := side.unfit())), "")
            if open_sides and max_seconds is not None and clock() - begin + longest > max_seconds:
                taken = min(len(side.sessions) for side in open_sides)
                stopped = stopped or f"the time was over after {taken} of {LOOKS[-1]} sessions"
        if any(side.verdict is Verdict.INCONCLUSIVE for side in sides.values()):
            stopped = stopped or f"{LOOKS[-1]} sessions could not decide"
        return Pairs(sides, measuring.measurement(), stopped)
