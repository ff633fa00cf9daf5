"""The command `watch`: the bundle runs on its golden sample at a rate, and a watch judges it as it would an application."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from enginewright_runtime.answer import Answer
from enginewright_runtime.backends import Array
from enginewright_runtime.bench.tasks import sleep_until
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.golden import one_sample, read_golden
from enginewright_runtime.option_types import port, positive_number, rate
from enginewright_runtime.session import open_bundle
from enginewright_runtime.watch.rolling import WatchRule
from enginewright_runtime.watch.watch import Watch

RATE_HZ = 30.0


def add_watch_options(command: argparse.ArgumentParser) -> None:
    """The options of `watch`."""
    command.add_argument("--rate-hz", type=rate, default=RATE_HZ, metavar="HZ", help="how often it runs (%(default)g)")
    command.add_argument("--seconds", type=positive_number, metavar="S", help="when to end (at Ctrl-C)")
    command.add_argument("--port", type=port, help="where 127.0.0.1 serves Prometheus at /metrics (nowhere)")
    command.add_argument("--output", type=Path, metavar="W.jsonl", help="where the JSON lines go (standard output)")


def run_watch(options: argparse.Namespace, *, rule: WatchRule | None = None) -> Answer:
    """Run at the rate until the time is over or Ctrl-C. The lines are written meanwhile, so the answer has none."""
    bundle = read_bundle(options.bundle, require_key=options.key)
    golden = one_sample(read_golden(bundle).inputs, bundle.manifest.inputs)
    inputs = {name: np.ascontiguousarray(array) for name, array in golden.items()}
    with open_bundle(bundle) as session:
        watch = Watch(
            bundle.manifest.budget,
            name=bundle.manifest.name,
            lines=options.output.resolve() if options.output else "-",
            port=options.port,
            rule=rule,
        )
        try:
            _run_at(watch, session.run, inputs, options.rate_hz, options.seconds)
        except KeyboardInterrupt:
            pass  # the usual end of a watch
        finally:
            died = not watch.running
            code = watch.close()
    if died or code not in (ExitCode.OK, ExitCode.FAILED, ExitCode.INCONCLUSIVE):
        raise MeasurementError(f"the process that judges ended with {code}; its standard error says why")
    return Answer(ExitCode(code), {}, ())


def _run_at(
    watch: Watch,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    inputs: Mapping[str, Array],
    rate_hz: float,
    seconds: float | None,
) -> None:
    observed = watch.observed(run)
    period_ns = round(1e9 / rate_hz)
    due_ns = time.perf_counter_ns()
    end_ns = None if seconds is None else due_ns + round(seconds * 1e9)
    while watch.running and (end_ns is None or due_ns < end_ns):
        sleep_until(due_ns)
        observed(inputs)
        due_ns = max(due_ns + period_ns, time.perf_counter_ns())
