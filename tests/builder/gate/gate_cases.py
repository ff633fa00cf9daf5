"""Pairs of engines that need no machine: sessions made up, and results to print."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from enginewright.gate.result import Comparison, GateFinding, GateResult, finding_of_change, finding_of_share, undecided
from enginewright_runtime.budget import Verdict
from enginewright_runtime.measure import EngineToMeasure
from enginewright_runtime.measurement import MeasuredEngine, Measurement, Protocol, SessionRecord
from enginewright_runtime.paired import CHUNK, ROUNDS
from enginewright_runtime.sequential import PROFILES, Decision, Limits, PairedSession, decide
from enginewright_runtime.warm_up import WarmUp, WarmUpRule

QUICK = WarmUpRule(least_ns=0, least_count=10, window=5, steady_share=0.5, steady_times=1, cap_ns=1_000_000_000)


class MadeUpMeasuring:
    """Stands for Measuring. An engine's latency is 1 ms times `ratios` of its label (1 where there is none)."""

    ratios: Mapping[str, float] = {}
    spread = 0.01
    settled = True
    taken = 0  # sessions, of all that were made

    def __init__(self, engines: Mapping[str, EngineToMeasure], inputs: object, **options: Any) -> None:
        self._labels = list(engines)
        self._generator = np.random.default_rng(0)
        self._sessions: list[SessionRecord] = []

    def __enter__(self) -> MadeUpMeasuring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return

    def take_session(self) -> SessionRecord:
        record = SessionRecord(
            samples_ns={label: self._samples(label) for label in self._labels},
            cpu_ns=dict.fromkeys(self._labels, (0,) * ROUNDS),
            warm_up=dict.fromkeys(
                self._labels, WarmUp(count=1, elapsed_ns=1, settled=self.settled, window_medians_ns=())
            ),
            peak_rss_bytes=dict.fromkeys(self._labels, 50 << 20),
            conditions_before={},
            conditions_after={},
        )
        self._sessions.append(record)
        type(self).taken += 1
        return record

    def measurement(self) -> Measurement:
        return made_up_measurement(dict.fromkeys(self._labels, 1), self._sessions)

    def _samples(self, label: str) -> tuple[int, ...]:
        process = self.spread * self._generator.standard_normal()
        logs = process + 0.01 * self._generator.standard_normal(ROUNDS * CHUNK)
        return tuple(int(value) for value in 1e6 * self.ratios.get(label, 1.0) * np.exp(logs))


def made_up_measurement(labels: Mapping[str, int], sessions: list[SessionRecord]) -> Measurement:
    """A measurement of these sessions."""
    return Measurement(
        host={"machine": "made up"},
        protocol=Protocol(
            threads=labels,
            interleaved=True,
            sessions=max(len(sessions), 1),
            rounds=ROUNDS,
            chunk=CHUNK,
            dropped_per_chunk=1,
            seed=0,
            warm_up=QUICK,
        ),
        engines={label: MeasuredEngine(sha256="0" * 64, size_bytes=1, backend="b", settings={}) for label in labels},
        sessions=tuple(sessions),
    )


class DeafWatch:
    """A watch that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Mapping[str, Decision | None], float]] = []
        self.notes: list[str] = []

    def session(self, decisions: Mapping[str, Decision | None], seconds: float) -> None:
        self.heard.append((dict(decisions), seconds))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        return


def decision_of(centre: float, spread: float = 0.01, sessions: int = 8) -> Decision:
    """What the strict rule says of made-up sessions."""
    logs = centre + spread * np.random.default_rng(0).standard_normal((sessions, 2))
    return decide(
        [PairedSession(float(a), float(b), 2, 2 + index % 2) for index, (a, b) in enumerate(logs)], PROFILES["strict"]
    )


def comparison_of(against: str, decision: Decision, *more: GateFinding, stopped: str = "") -> Comparison:
    """One comparison with the latency findings of a decision."""
    latency = tuple(finding_of_change(change, decision.verdict) for change in decision.changes)
    return Comparison(
        against=against, findings=(*latency, *more), sessions=decision.sessions, dropped_share=0.025, stopped=stopped
    )


def results() -> dict[str, GateResult]:
    """A result of each verdict, for the texts."""
    limit = Limits(0.002, 0.002)
    accuracy = finding_of_share("accuracy", limit, 0.001, (0.001, 0.001))
    lost = finding_of_share("accuracy", limit, 0.012, (0.012, 0.012))
    same = GateFinding(
        metric="latency",
        verdict=Verdict.PASS,
        sentence="latency cannot differ: both bundles hold the same engine, to the byte",
        value=0.0,
        low=0.0,
        high=0.0,
    )
    host = {"cpu": "Imaginary 9000", "cores": 2}
    cases = {
        "pass": (comparison_of("main.ewb", decision_of(0.001, 0.002), accuracy),),
        "fail": (
            Comparison(against="main.ewb", findings=(same, accuracy)),
            comparison_of("release|<1>.ewb", decision_of(0.06), lost),
        ),
        "inconclusive": (
            comparison_of(
                "main.ewb",
                decision_of(0.02, 0.05, 10),
                undecided("memory", "no memory was measured"),
                stopped="the time was over after 10 of 40 sessions",
            ),
        ),
    }
    return {
        name: GateResult(
            candidate="new.ewb",
            profile="strict",
            comparisons=comparisons,
            samples=1600,
            seconds=95.4,
            host=host,
            notes=("a note with a | in it",),
        )
        for name, comparisons in cases.items()
    }
