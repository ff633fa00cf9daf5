"""From the raw samples of a session to what the gate's rule looks at, and which rounds count. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginewright_runtime.measurement import Measurement, SessionRecord
from enginewright_runtime.sequential import PairedSession
from enginewright_runtime.stats import percentile, samples_for_percentile
from enginewright_runtime.warm_up import WarmUpRule

# A second for each engine of a pair, so that the machine has worked for two before the first sample: its clocks take
# that long. Windows of half the usual length, because a pair waits for both.
GATE_WARM_UP = WarmUpRule(least_ns=1_000_000_000, least_count=100, window=25, steady_errors=2.0)
ROUNDS = 40
CHUNK = 5
MOST_DROPPED = 0.2
_CLOCK_MOVED = 0.05


@dataclass(frozen=True)
class PairRecord:
    """What one session gave. `statistics` is None where the pair is invalid, and `reason` says why, as a clause.

    Of an invalid pair, all rounds count as dropped.
    """

    rounds: int
    dropped: int
    statistics: PairedSession | None
    reason: str = ""


def pair(session: SessionRecord, baseline: str, candidate: str, *, chunk: int = CHUNK) -> PairRecord:
    """The session of two engines, given by their labels; each has chunks of `chunk` samples, one a round."""
    rounds = len(session.samples_ns[baseline]) // chunk
    for label in (baseline, candidate):
        if not session.warm_up[label].settled:
            return PairRecord(rounds, rounds, None, f"the {label} never became steady while warming up")
    out = disturbed_rounds(session, (baseline, candidate), rounds)
    kept = [index for index in range(rounds) if index not in out]
    if 2 * chunk * len(kept) < samples_for_percentile(99):
        return PairRecord(rounds, rounds, None, f"clocks or throttling disturbed {len(out)} of {rounds} rounds")
    before = np.asarray(session.samples_ns[baseline], dtype=np.int64).reshape(rounds, chunk)[kept]
    after = np.asarray(session.samples_ns[candidate], dtype=np.int64).reshape(rounds, chunk)[kept]
    return PairRecord(rounds, len(out), paired_statistics(before, after))


def paired_statistics(before_ns: npt.NDArray[np.int64], after_ns: npt.NDArray[np.int64]) -> PairedSession:
    """The statistics of one session. Both are of shape [rounds, chunk]: the baseline's and the candidate's samples."""
    rounds = np.log(after_ns.mean(axis=1)) - np.log(before_ns.mean(axis=1))
    slow = percentile(np.concatenate([before_ns, after_ns], axis=None), 99)
    return PairedSession(
        centre=float(np.median(rounds)),
        p90=math.log(percentile(after_ns.ravel(), 90) / percentile(before_ns.ravel(), 90)),
        slow_baseline=int((before_ns > slow).sum()),
        slow_candidate=int((after_ns > slow).sum()),
    )


def disturbed_rounds(session: SessionRecord, labels: Iterable[str], rounds: int) -> frozenset[int]:
    """The rounds in which the machine throttled, or changed its clocks, whichever engine ran. No latency is looked at.

    A throttle is a counter of the processor's, of the control group's quota or of the GPU's that grew. A clock has
    changed where its limit, its governor or what holds the GPU's back is not the session's usual one, or where a core
    or the GPU ran 5 % away from that engine's usual clock. So a GPU at its power limit all the time is as it is, and
    one that comes and goes there is not.
    """
    found: set[int] = set()
    for label in labels:
        columns = session.chunk_conditions.get(label, {})
        for name in ("thermal_throttles", "quota_throttled_us", "gpu_throttles"):
            found |= {
                index for index, grown in enumerate(columns.get(name, ())) if isinstance(grown, int) and grown > 0
            }
        for name in ("clock_limit_khz", "governor", "gpu_clock_limit_khz", "gpu_held_back_by"):
            column = columns.get(name, ())
            usual = statistics.mode(column) if column else None
            found |= {index for index, value in enumerate(column) if value != usual}
        for name in ("clock_khz", "gpu_clock_khz"):
            clocks = {index: value for index, value in enumerate(columns.get(name, ())) if isinstance(value, int)}
            middle = statistics.median(clocks.values()) if clocks else 0
            found |= {index for index, clock in clocks.items() if abs(clock - middle) > _CLOCK_MOVED * middle}
    return frozenset(index for index in found if index < rounds)


def disturbed_chunks(measurement: Measurement, label: str) -> tuple[int, int] | None:
    """In how many chunks of one engine that was so, and how many there are; None where nobody looked."""
    if not any(session.chunk_conditions for session in measurement.sessions):
        return None
    chunks = measurement.protocol.rounds
    found = sum(len(disturbed_rounds(session, [label], chunks)) for session in measurement.sessions)
    return found, chunks * len(measurement.sessions)


def share_dropped(pairs: Iterable[PairRecord]) -> float:
    """The share of all rounds that were dropped, those of invalid pairs included."""
    taken = [(one.dropped, one.rounds) for one in pairs]
    return sum(dropped for dropped, _ in taken) / max(sum(rounds for _, rounds in taken), 1)
