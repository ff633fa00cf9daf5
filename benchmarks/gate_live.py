"""The gate itself on this machine, beside processes that burn a core: `python benchmarks/gate_live.py [--pairs N]`.

N pairs of bundles of equal work, whose engines differ in a name, and N whose candidate has 5 % more layers. Counts of
each verdict, and the time that they took.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from gate_engines import LAYERS, burning, make_bundle

from enginewright.gate.progress import PlainGateWatch
from enginewright.gate.result import GateResult
from enginewright.gate.run import run_gate
from enginewright_runtime.budget import Verdict
from enginewright_runtime.sequential import PROFILES

_MORE = {"identical": 0, "5 % slower": LAYERS // 20}


class _Silent(PlainGateWatch):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def _say(self, line: str) -> None:
        return


def judge(folder: Path, kind: str, number: int, profile: str) -> GateResult:
    """One gate on two bundles made for it."""
    baseline = make_bundle(folder / "baseline.ewb", layers=LAYERS, name=f"baseline{number}")
    candidate = make_bundle(folder / "candidate.ewb", layers=LAYERS + _MORE[kind], name=f"candidate{number}")
    return run_gate(candidate, [baseline], watch=_Silent(), profile=profile, metrics=("latency",)).result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="gates of each kind (%(default)s)")
    parser.add_argument("--burn", type=int, default=1, help="processes that burn a core (%(default)s)")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="strict")
    options = parser.parse_args()
    found: dict[str, list[GateResult]] = {kind: [] for kind in _MORE}
    with tempfile.TemporaryDirectory() as folder, burning(processes=options.burn):
        for number in range(options.pairs):
            for kind, results in found.items():
                results.append(judge(Path(folder), kind, number, options.profile))
                print(
                    f"{number + 1:>3} {kind:<11} {results[-1].comparisons[0].sessions:>2} sessions "
                    f"{results[-1].seconds:>5.0f} s  {results[-1].verdict.value}: {results[-1].reason}",
                    flush=True,
                )
    print(f"\nprofile {options.profile}, {options.burn} processes burning a core beside, chain of {LAYERS} layers")
    print(f"{'candidate':<12} {'PASS':>5} {'FAIL':>5} {'INCONCLUSIVE':>13} {'mean time':>10} {'p95 time':>9}")
    for kind, results in found.items():
        counts, seconds = Counter(one.verdict for one in results), [one.seconds for one in results]
        print(
            f"{kind:<12} {counts[Verdict.PASS]:>5} {counts[Verdict.FAIL]:>5} {counts[Verdict.INCONCLUSIVE]:>13} "
            f"{np.mean(seconds):>8.0f} s {np.quantile(seconds, 0.95):>7.0f} s"
        )


if __name__ == "__main__":
    main()
