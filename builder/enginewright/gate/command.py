"""The command `gate`: its options, and one run with them. What measures is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from enginewright_runtime.option_types import positive_number

if TYPE_CHECKING:
    from enginewright.gate.result import GateResult

__all__ = ["add_gate_options", "run_gate_command"]


def add_gate_options(command: argparse.ArgumentParser) -> None:
    """The options of `gate`."""
    command.add_argument("candidate", metavar="CANDIDATE.ewb", type=Path)
    command.add_argument(
        "--against",
        action="append",
        required=True,
        type=Path,
        metavar="BASELINE",
        help="a bundle, or a measurement that was taken on this host; give it again for more: the worst verdict counts",
    )
    command.add_argument("--profile", choices=("strict", "standard"), default="strict", help="the limits (%(default)s)")
    command.add_argument("--metrics", type=_metrics, default=None, help="of latency,accuracy,size,memory (all)")
    command.add_argument(
        "--max-seconds", type=positive_number, help="INCONCLUSIVE where it would take longer to decide"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="where to write a job summary")
    command.add_argument("--junit", type=Path, metavar="FILE", help="where to write JUnit XML")
    command.add_argument("--output", type=Path, metavar="M.json", help="where to write the raw samples of the bundles")


def run_gate_command(options: argparse.Namespace, progress: TextIO, environment: Mapping[str, str]) -> GateResult:
    """Judge, show the progress meanwhile, and write the files that were asked for; see `run_gate` and `deliver`."""
    from enginewright.gate.delivery import deliver
    from enginewright.gate.progress import watch_gate
    from enginewright.gate.run import METRICS, run_gate

    watching = watch_gate(progress)
    try:
        run = run_gate(
            options.candidate,
            options.against,
            watch=watching,
            profile=options.profile,
            metrics=options.metrics or METRICS,
            max_seconds=options.max_seconds,
        )
    finally:
        watching.close()
    deliver(run, markdown=options.markdown, junit=options.junit, output=options.output, environment=environment)
    return run.result


def _metrics(text: str) -> tuple[str, ...]:
    from enginewright.gate.run import METRICS

    chosen = tuple(part.strip() for part in text.split(","))
    if unknown := [name for name in chosen if name not in METRICS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(METRICS)}")
    return chosen
