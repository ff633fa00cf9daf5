"""How often gates are right: `python benchmarks/gate_power.py [--gates N]`.

Ours beside the rule that most teams have (p50 grew by 5 % against a stored number), pyperf's and asv's, on three
made-up machines and on recorded traces, with identical engines and with engines that are 5 and 10 % slower. Then the
budget rule at the exact limit. A made-up inference takes 10 ms.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from gate_budget import budget_table
from gate_rules import asv, naive, ours, pyperf
from gate_traces import FOLDER, read_trace
from gate_worlds import HOSTILE, QUIET, SHARED, Machine, Trace

from enginewright_runtime.budget import Verdict
from enginewright_runtime.sequential import PROFILES

_CHANGES = (0.0, 0.05, 0.10)


def machines() -> list[Machine]:
    """The made-up ones, and one for each trace."""
    traces = [Trace(f"trace {path.stem}", read_trace(path).astype(float)) for path in sorted(FOLDER.glob("*.npz"))]
    return [QUIET, SHARED, HOSTILE, *traces]


def our_rows(machine: Machine, gates: int, profile: str) -> list[str]:
    rows = []
    for change in _CHANGES:
        generator = np.random.default_rng(7)
        found = [ours(machine, generator, change, PROFILES[profile]) for _ in range(gates)]
        share = {verdict: np.mean([one[0] is verdict for one in found]) for verdict in Verdict}
        seconds = {verdict: [one[2] for one in found if one[0] is verdict] for verdict in Verdict}
        rows.append(
            f"{machine.name:<22} {_slower(change):<10} "
            f"{share[Verdict.FAIL]:>7.1%} {share[Verdict.PASS]:>7.1%} {share[Verdict.INCONCLUSIVE]:>13.1%} "
            f"{np.mean([one[1] for one in found]):>9.1f} {_mean(seconds[Verdict.PASS]):>12} "
            f"{_p95(seconds[Verdict.FAIL]):>11}"
        )
    return rows


def peer_rows(machine: Machine, gates: int) -> list[str]:
    rows = []
    for change in _CHANGES:
        shares = []
        for rule in (naive, pyperf, asv, lambda *given: asv(*given, factor=1.05)):
            generator = np.random.default_rng(7)
            shares.append(np.mean([rule(machine, generator, change) for _ in range(gates)]))
        rows.append(f"{machine.name:<22} {_slower(change):<10} " + " ".join(f"{share:>9.1%}" for share in shares))
    return rows


def _slower(change: float) -> str:
    return f"{change:.0%} slower" if change else "identical"


def _mean(seconds: Sequence[float]) -> str:
    return f"{np.mean(seconds):.0f} s" if seconds else "-"


def _p95(seconds: Sequence[float]) -> str:
    return f"{np.quantile(seconds, 0.95):.0f} s" if seconds else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=1000, help="gates a row (%(default)s)")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="strict")
    options = parser.parse_args()
    print(
        f"ours, profile {options.profile}, {options.gates} gates a row: shares of verdicts, sessions, time to a verdict"
    )
    print(f"{'machine':<22} {'candidate':<10} {'FAIL':>7} {'PASS':>7} {'INCONCLUSIVE':>13} {'sessions':>9} "
          f"{'PASS in mean':>12} {'FAIL in p95':>11}")  # fmt: skip
    for machine in machines():
        print("\n".join(our_rows(machine, options.gates, options.profile)), flush=True)
    print("\nthe others: share called slower")
    print(f"{'machine':<22} {'candidate':<10} {'p50 +5 %':>9} {'pyperf':>9} {'asv':>9} {'asv 1.05':>9}")
    for machine in machines():
        print("\n".join(peer_rows(machine, options.gates)), flush=True)
    print()
    print("\n".join(budget_table(options.gates)))


if __name__ == "__main__":
    main()
