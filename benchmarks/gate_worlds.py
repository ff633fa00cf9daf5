"""Machines to try gates on: three made up, and those that traces were recorded on.

A machine gives sessions of two engines side by side, as the gate takes them, and processes of one engine alone, one
after another, as everybody else measures. Times are in nanoseconds. `change` is the candidate's slow-down as a share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from gate_traces import WORK

from enginewright_runtime.paired import CHUNK, ROUNDS

__all__ = ["HOSTILE", "QUIET", "SHARED", "Machine", "Trace", "World"]

Times: TypeAlias = "npt.NDArray[np.float64]"
_INFERENCE_NS = 10e6


class Machine(Protocol):
    """Where engines run."""

    name: str

    def pair(self, generator: np.random.Generator, change: float) -> tuple[Times, Times]:
        """A session of baseline and candidate, each of shape [rounds, chunk]."""

    def alone(self, generator: np.random.Generator, change: float, processes: int, samples: int) -> Times:
        """Processes of one engine at one time of day, of shape [processes, samples]."""

    def beside(
        self, generator: np.random.Generator, change: float, processes: int, samples: int
    ) -> tuple[Times, Times]:
        """The same of both engines at one time of day, process by process in turn."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A made-up machine. Every spread is of logarithms, so that 0.01 is 1 %.

    `process`: between processes of one engine, for where their memory happens to lie. `sample`: between inferences.
    `drift`: of the machine within minutes, and `day`: between two runs at different times. Neighbours are busy for a
    share of the time, for some chunks in a row, and slow everything down by a factor. A share of the inferences is hit
    by something else, and takes longer by an exponential share of `hit_mean`.
    """

    name: str
    process: float
    sample: float
    drift: float
    day: float
    busy_share: float
    busy_factor: float
    busy_chunks: float
    hit_share: float
    hit_mean: float

    def pair(self, generator: np.random.Generator, change: float) -> tuple[Times, Times]:
        machine = self._machine(generator, 2 * ROUNDS).reshape(ROUNDS, 2)
        first = generator.integers(0, 2, ROUNDS)
        rows = np.arange(ROUNDS)
        before = self._process(generator, 0.0, machine[rows, first])
        return before, self._process(generator, change, machine[rows, 1 - first])

    def alone(self, generator: np.random.Generator, change: float, processes: int, samples: int) -> Times:
        day = self.day * generator.standard_normal()
        chunks = samples // CHUNK
        machine = day + self._machine(generator, processes * chunks).reshape(processes, chunks)
        return np.stack([self._process(generator, change, row).ravel() for row in machine])

    def beside(
        self, generator: np.random.Generator, change: float, processes: int, samples: int
    ) -> tuple[Times, Times]:
        chunks = samples // CHUNK
        machine = self._machine(generator, 2 * processes * chunks).reshape(processes, 2, chunks)
        before, after = (
            np.stack([self._process(generator, slower, row).ravel() for row in machine[:, side]])
            for side, slower in ((0, 0.0), (1, change))
        )
        return before, after

    def _machine(self, generator: np.random.Generator, chunks: int) -> Times:
        """The logarithm of how much slower the machine is, chunk by chunk."""
        leave = 1 / self.busy_chunks
        enter = leave * self.busy_share / (1 - self.busy_share)
        chances = generator.random(chunks)
        busy = np.empty(chunks)
        state = generator.random() < self.busy_share
        for index in range(chunks):
            state = chances[index] >= leave if state else chances[index] < enter
            busy[index] = state
        steps = generator.standard_normal(chunks // 20 + 2) * self.drift
        drift = np.interp(np.arange(chunks), 20 * np.arange(steps.size), steps)
        return drift + busy * math.log(self.busy_factor)

    def _process(self, generator: np.random.Generator, change: float, machine: Times) -> Times:
        """One process: its chunks on a machine that is slower by `machine`, of shape [chunks, CHUNK]."""
        shape = (machine.size, CHUNK)
        logs = math.log1p(change) + self.process * generator.standard_normal() + machine[:, None]
        logs = logs + self.sample * generator.standard_normal(shape)
        hit = 1 + (generator.random(shape) < self.hit_share) * generator.exponential(self.hit_mean, shape)
        times: Times = _INFERENCE_NS * np.exp(logs) * hit
        return times


QUIET = World(
    name="quiet", process=0.003, sample=0.01, drift=0.003, day=0.01,
    busy_share=0.02, busy_factor=1.2, busy_chunks=20, hit_share=0.002, hit_mean=0.3,
)  # fmt: skip
SHARED = World(
    name="shared", process=0.008, sample=0.04, drift=0.02, day=0.04,
    busy_share=0.3, busy_factor=1.4, busy_chunks=10, hit_share=0.02, hit_mean=0.5,
)  # fmt: skip
HOSTILE = World(
    name="hostile", process=0.015, sample=0.10, drift=0.06, day=0.08,
    busy_share=0.5, busy_factor=1.9, busy_chunks=4, hit_share=0.05, hit_mean=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """A machine whose sessions were recorded. A gate takes its sessions at random, with replacement.

    `times` is of shape [sessions, engines, rounds, chunk], see benchmarks.gate_traces. Whoever measures one engine
    alone gets successive sessions of it, and of the other engine those of another time.
    """

    name: str
    times: Times

    def pair(self, generator: np.random.Generator, change: float) -> tuple[Times, Times]:
        """Of identical engines, either is the baseline in turn, so that what the two happen to differ by cancels."""
        session = self.times[generator.integers(len(self.times))]
        if change:
            return session[WORK_INDEX["one"]], session[_engine(change)]
        first = int(generator.integers(2))
        return session[first], session[1 - first]

    def alone(self, generator: np.random.Generator, change: float, processes: int, samples: int) -> Times:
        start = int(generator.integers(len(self.times)))
        chosen = [(start + index) % len(self.times) for index in range(processes)]
        engine = _engine(change) if change else int(generator.integers(2))
        return self.times[chosen, engine].reshape(processes, -1)[:, :samples]

    def beside(
        self, generator: np.random.Generator, change: float, processes: int, samples: int
    ) -> tuple[Times, Times]:
        start = int(generator.integers(len(self.times)))
        chosen = [(start + index) % len(self.times) for index in range(processes)]
        first = 0 if change else int(generator.integers(2))
        second = _engine(change) if change else 1 - first
        before, after = (self.times[chosen, engine].reshape(processes, -1)[:, :samples] for engine in (first, second))
        return before, after


WORK_INDEX = {name: index for index, name in enumerate(WORK)}


def _engine(change: float) -> int:
    return WORK_INDEX[{0.05: "five", 0.10: "ten"}[change]]
