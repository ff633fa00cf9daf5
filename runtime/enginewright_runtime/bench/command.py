"""The command `bench`: which question its options ask, and which of them go together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from enginewright_runtime.answer import Answer
from enginewright_runtime.bench.beside import bench_beside
from enginewright_runtime.bench.cold_start import bench_cold_start
from enginewright_runtime.bench.latency import bench_latency
from enginewright_runtime.bench.rate import bench_rate
from enginewright_runtime.bench.soak import bench_soak
from enginewright_runtime.bench.subject import subject
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.errors import UsageError
from enginewright_runtime.option_types import duration, positive, positive_number, rate

SESSIONS = 5


def add_bench_options(command: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    command.add_argument("--sessions", type=positive, help=f"how many fresh processes ({SESSIONS})")
    command.add_argument(
        "--caches",
        choices=("warm", "evicted"),
        help="how each inference finds the processor's caches; budgets are of warm ones (warm)",
    )
    command.add_argument("--rate-hz", type=rate, metavar="HZ", help="frames arrive at this rate, as from a camera")
    command.add_argument(
        "--deadline-ms", type=positive_number, metavar="MS", help="with --rate-hz: when a frame's answer is late"
    )
    command.add_argument(
        "--beside",
        type=Path,
        action="append",
        metavar="OTHER.ewb",
        help="also while this bundle runs on the same machine; may be given several times, and with --rate-hz",
    )
    command.add_argument("--cold-start", action="store_true", help="from a process's start to its first answer")
    command.add_argument(
        "--soak-seconds",
        type=duration,
        metavar="S",
        help="run this long, and tell drift, temperature and clocks; with --rate-hz at that rate",
    )
    command.add_argument("--output", type=Path, metavar="M.json", help="where to write all raw samples")


def run_bench(options: argparse.Namespace, on_progress: Callable[[str, int, int], None]) -> tuple[Answer, bytes]:
    """The answer, and the file with all raw samples. Raises UsageError for options that do not go together.

    `on_progress`: what is counted, how many are done, and of how many.
    """
    question = _question(options)
    sessions = options.sessions or SESSIONS
    on_session, on_window = partial(on_progress, "session"), partial(on_progress, "window")
    with ExitStack() as stack:
        measured = stack.enter_context(subject(read_bundle(options.bundle, require_key=options.key)))
        others = [
            stack.enter_context(subject(read_bundle(path, require_key=options.key))) for path in options.beside or ()
        ]
        if question == "soak":
            return bench_soak(
                measured, soak_seconds=options.soak_seconds, rate_hz=options.rate_hz, on_progress=on_window
            )
        if question == "rate":
            return bench_rate(
                measured,
                rate_hz=options.rate_hz,
                deadline_ms=options.deadline_ms,
                others=others,
                sessions=sessions,
                on_progress=on_session,
            )
        if question == "beside":
            return bench_beside(measured, others, sessions=sessions, on_progress=on_session)
        if question == "cold start":
            return bench_cold_start(measured, sessions=sessions, on_progress=on_session)
        return bench_latency(measured, sessions=sessions, caches=options.caches or "warm", on_progress=on_session)


def _question(options: argparse.Namespace) -> str:
    given = {
        "--soak-seconds": options.soak_seconds is not None,
        "--beside": bool(options.beside) and options.rate_hz is None,
        "--cold-start": options.cold_start,
        "--rate-hz": options.rate_hz is not None and options.soak_seconds is None,
    }
    if options.beside and options.soak_seconds is not None:
        raise UsageError("--beside does not go with --soak-seconds", hint="soak each of them, or use --rate-hz")
    asked = [name for name, is_given in given.items() if is_given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} are questions of their own", hint="ask them one after the other")
    if options.deadline_ms is not None and asked != ["--rate-hz"]:
        raise UsageError("--deadline-ms goes with --rate-hz: a deadline counts from a frame's arrival")
    if asked and options.caches:
        raise UsageError(f"--caches does not go with {asked[0]}, where the caches are as the inferences find them")
    if asked == ["--soak-seconds"] and options.sessions:
        raise UsageError("--sessions does not go with --soak-seconds, which runs one process")
    questions = {"--soak-seconds": "soak", "--beside": "beside", "--cold-start": "cold start", "--rate-hz": "rate"}
    return questions[asked[0]] if asked else "latency"
