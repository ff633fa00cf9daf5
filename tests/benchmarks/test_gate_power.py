"""The machines on which gates are tried, and the rules that ours is set beside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gate_budget import budget_table
from gate_rules import asv, naive, ours, pyperf
from gate_traces import FOLDER, WORK, read_trace
from gate_worlds import HOSTILE, QUIET, SHARED, Machine, Trace

from enginewright_runtime.budget import Verdict
from enginewright_runtime.paired import CHUNK, ROUNDS
from enginewright_runtime.sequential import PROFILES

TRACES = [Trace(path.stem, read_trace(path).astype(float)) for path in sorted(FOLDER.glob("*.npz"))]


@pytest.mark.parametrize("machine", [QUIET, SHARED, HOSTILE, *TRACES], ids=lambda machine: machine.name)
def test_a_machine_shows_a_slow_down_in_its_pairs_and_beside_noise_nothing_else(machine: Machine) -> None:
    generator = np.random.default_rng(0)
    logs = []
    for change in (0.0, 0.10):
        pairs = [machine.pair(generator, change) for _ in range(100)]
        assert pairs[0][0].shape == pairs[0][1].shape == (ROUNDS, CHUNK)
        logs.append(np.mean([np.median(np.log(after) - np.log(before)) for before, after in pairs]))
    assert abs(logs[0]) < 0.02
    assert logs[1] == pytest.approx(np.log(1.1), abs=0.03)


@pytest.mark.parametrize("machine", [QUIET, *TRACES], ids=lambda machine: machine.name)
def test_processes_alone_and_in_turn_have_the_shape_that_was_asked_for(machine: Machine) -> None:
    generator = np.random.default_rng(0)
    assert machine.alone(generator, 0.05, 4, 30).shape == (4, 30)
    before, after = machine.beside(generator, 0.05, 2, 10)
    assert before.shape == after.shape == (2, 10)


def test_every_rule_sees_a_slow_down_of_half_and_none_where_nothing_differs_on_a_perfect_machine() -> None:
    perfect = replace(QUIET, process=1e-4, sample=1e-3, drift=1e-4, day=1e-4, busy_share=0.0, hit_share=0.0)
    generator = np.random.default_rng(0)
    assert ours(perfect, generator, 0.5, PROFILES["strict"])[0] is Verdict.FAIL
    assert ours(perfect, generator, 0.0, PROFILES["strict"])[0] is Verdict.PASS
    for rule in (naive, pyperf, asv):
        assert rule(perfect, generator, 0.5), rule
    assert not naive(perfect, generator, 0.0)
    assert not asv(perfect, generator, 0.0)
    assert not asv(perfect, generator, 0.05)
    assert asv(perfect, generator, 0.07, factor=1.05)


def test_a_gate_s_time_is_that_of_its_sessions() -> None:
    _, sessions, seconds = ours(QUIET, np.random.default_rng(0), 0.10, PROFILES["strict"])
    # Two starts, a second of warm-up each, and 480 inferences of 10 ms or somewhat more.
    assert sessions == 8
    assert 8 * 8.0 < seconds < 8 * 9.0


def test_a_trace_has_every_engine() -> None:
    assert TRACES
    for trace in TRACES:
        assert trace.times.shape[1:] == (len(WORK), ROUNDS, CHUNK)


def test_the_budget_table_has_a_line_for_each_world_and_number_of_sessions() -> None:
    assert len(budget_table(2)) == 2 + 5 * 4
