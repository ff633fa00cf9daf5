"""What is the same whenever it is looked at: accuracy and size from the bundles, and memory from the processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginewright.gate.result import GateFinding, finding_of_share, undecided
from enginewright.gate.sides import BundleSide
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.sequential import Limits
from enginewright_runtime.stats import median_interval

__all__ = ["EXACT_LIMITS", "accuracy_finding", "memory_finding", "size_finding", "stored_memory_finding"]


@dataclass(frozen=True)
class ExactLimits:
    """How much accuracy may be lost, as a share of the samples, and how much more size and memory there may be."""

    accuracy: float
    size: float
    memory: float


# Two processes of one engine differ in memory by up to 2 % or so; sizes and accuracies of one engine do not differ.
EXACT_LIMITS = {
    "strict": ExactLimits(accuracy=0.002, size=0.01, memory=0.05),
    "standard": ExactLimits(accuracy=0.005, size=0.05, memory=0.10),
}


def accuracy_finding(candidate: float | None, baseline: float | None, profile: str) -> GateFinding:
    """How much accuracy was lost, both as evaluated on the test set when the bundles were built."""
    if candidate is None or baseline is None:
        lacking = "candidate" if candidate is None else "baseline"
        return undecided("accuracy", f"the {lacking} has none")
    drop = baseline - candidate
    return finding_of_share("accuracy", _one_limit(EXACT_LIMITS[profile].accuracy), drop, (drop, drop))


def size_finding(candidate_bytes: int, baseline_bytes: int, profile: str) -> GateFinding:
    """How much larger the engine's file is."""
    grown = candidate_bytes / max(baseline_bytes, 1) - 1
    return finding_of_share("size", _one_limit(EXACT_LIMITS[profile].size), grown, (grown, grown))


def memory_finding(candidate_bytes: Sequence[int], baseline_bytes: Sequence[int], profile: str) -> GateFinding:
    """How much more memory the candidate's processes had resident; a value a session, with an interval of the median."""
    ratios = [mine / theirs - 1 for mine, theirs in zip(candidate_bytes, baseline_bytes, strict=True)]
    try:
        low, middle, high = median_interval(ratios)
    except NotEnoughSamples as error:
        return undecided("memory", error.message)
    return finding_of_share("memory", _one_limit(EXACT_LIMITS[profile].memory), middle, (low, high))


def stored_memory_finding(candidate: BundleSide, baseline: BundleSide, profile: str) -> GateFinding:
    """The same from what was measured when the bundles were built, where that was on one host."""
    if candidate.stored is None or baseline.stored is None:
        return undecided("memory", "a bundle has no measurement, and none was taken here")
    if candidate.stored.host != baseline.stored.host:
        return undecided("memory", "the bundles were measured on different hosts, and no latency was measured here")

    mine, theirs = (one.peak_memory_bytes("engine") for one in (candidate.stored, baseline.stored))
    grown = mine / theirs - 1
    return finding_of_share("memory", _one_limit(EXACT_LIMITS[profile].memory), grown, (grown, grown))


def _one_limit(limit: float) -> Limits:
    return Limits(fail_beyond=limit, pass_within=limit)
