"""check: wrong outputs and missed budgets fail, and it samples on until the budgets are decided, or time is over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.tiny_bundle import make_bundle, tiny_golden, tiny_manifest

from enginewright_runtime import cli
from enginewright_runtime.bench import check as check_module
from enginewright_runtime.bench.check import Checked, check, check_answer
from enginewright_runtime.bench.subject import Subject, subject
from enginewright_runtime.budget import Verdict
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.host import fingerprint
from enginewright_runtime.measurement import Measurement, Protocol, SessionRecord
from enginewright_runtime.warm_up import WarmUp, WarmUpRule

SLOW, FAST = 5_000_000, 1_000_000
WARM = WarmUp(count=1, elapsed_ns=1, settled=True, window_medians_ns=())


class Scripted:
    """Stands for Measuring: each session has as many slow inferences of 200 as the script says."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script = script
        self.taken: list[SessionRecord] = []

    def __call__(self, engines: object, inputs: object, **rest: object) -> Scripted:
        return self

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def take_session(self) -> None:
        slow = self.script[len(self.taken) % len(self.script)]
        samples = (SLOW,) * slow + (FAST,) * (200 - slow)
        both: dict[str, Any] = {"conditions_before": {}, "conditions_after": {}}
        self.taken.append(
            SessionRecord(
                samples_ns={"engine": samples},
                cpu_ns={"engine": (1,)},
                warm_up={"engine": WARM},
                peak_rss_bytes={"engine": 1 << 20},
                **both,
            )
        )

    def measurement(self) -> Measurement:
        protocol = Protocol(
            threads={"engine": 1},
            interleaved=False,
            sessions=len(self.taken),
            rounds=40,
            chunk=5,
            dropped_per_chunk=1,
            seed=0,
            warm_up=WarmUpRule(),
        )
        return Measurement(host=fingerprint(), protocol=protocol, engines={}, sessions=tuple(self.taken))


@contextmanager
def bundle_with(path: Path, budget: dict[str, float], **rest: Any) -> Iterator[Subject]:
    with subject(read_bundle(make_bundle(path, manifest=replace(tiny_manifest(), budget=budget), **rest))) as found:
        yield found


def checked(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    script: Sequence[int],
    budget: dict[str, float] | None = None,
    **rest: Any,
) -> Checked:
    """A check of a tiny bundle whose latencies are scripted."""
    monkeypatch.setattr(check_module, "Measuring", Scripted(script))
    with bundle_with(tmp_path / "tiny.ewb", budget or {"latency_p99_ms": 2.0}) as found:
        return check(found, max_seconds=rest.pop("max_seconds", 1000.0), **rest)


def sessions(found: Checked) -> int:
    assert found.measurement is not None
    return len(found.measurement.sessions)


def test_a_budget_that_is_clearly_kept_or_missed_is_decided_at_the_first_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for script, verdict in (([0], Verdict.PASS), ([40, 42], Verdict.FAIL)):
        found = checked(monkeypatch, tmp_path, script)
        assert (found.verdict, sessions(found)) == (verdict, 4)


def test_it_samples_on_while_a_budget_is_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = checked(monkeypatch, tmp_path, [1, 0, 1, 0])
    assert (found.verdict, sessions(found)) == (Verdict.PASS, 8)


def test_at_the_very_limit_it_ends_inconclusive_at_the_last_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = checked(monkeypatch, tmp_path, [2, 3, 1, 2])
    assert (found.verdict, sessions(found)) == (Verdict.INCONCLUSIVE, 32)


def test_time_that_is_over_ends_it_with_one_more_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = iter(range(0, 10**12, 10**9)).__next__
    found = checked(monkeypatch, tmp_path, [2, 3, 1, 2], max_seconds=6.0, clock_ns=clock)
    assert (found.verdict, sessions(found)) == (Verdict.INCONCLUSIVE, 6)
    found = checked(monkeypatch, tmp_path, [0], max_seconds=3.0, clock_ns=iter(range(0, 10**12, 10**9)).__next__)
    assert (found.verdict, sessions(found)) == (Verdict.PASS, 3)


def test_more_latencies_are_not_taken_for_a_budget_that_they_cannot_decide(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    budget = {"latency_p99_ms": 2.0, "energy_mj": 1.0}
    found = checked(monkeypatch, tmp_path, [0], budget)
    assert (found.verdict, sessions(found)) == (Verdict.INCONCLUSIVE, 4)
    missed = checked(monkeypatch, tmp_path, [2, 3, 1, 2], {"latency_p99_ms": 2.0, "size_mib": 1e-9})
    assert (missed.verdict, sessions(missed)) == (Verdict.FAIL, 4)


def test_wrong_outputs_fail_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with bundle_with(tmp_path / "wrong.ewb", {"latency_p99_ms": 2.0}, golden=tiny_golden(off_by=0.5)) as wrong:
        found = check(wrong, max_seconds=10.0)
        answer = check_answer(wrong, found, max_seconds=10.0)
    assert (found.verdict, found.measurement, answer.code) == (Verdict.FAIL, None, 1)
    assert answer.json["outputs_agree"] is False
    assert answer.lines[-1] == "verdict: FAIL, the golden outputs differ: nothing was measured"


@pytest.mark.parametrize(("script", "code"), [([0], 0), ([40], 1), ([2, 3, 1, 2], 4)])
def test_the_command_ends_with_the_verdict_s_code_and_keeps_the_samples(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    script: Sequence[int],
    code: int,
) -> None:
    monkeypatch.setattr(check_module, "Measuring", Scripted(script))
    path = make_bundle(tmp_path / "tiny.ewb", manifest=replace(tiny_manifest(), budget={"latency_p99_ms": 2.0}))
    assert cli.main(["check", str(path), "--json", "--output", str(tmp_path / "m.json")]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == {0: "PASS", 1: "FAIL", 4: "INCONCLUSIVE"}[code]
    assert len(json.loads((tmp_path / "m.json").read_bytes())["sessions"]) * 200 == found["samples"]


def test_a_real_engine_is_checked(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subject(read_bundle(tiny_path)) as real:
        found = check(real, max_seconds=0.001, rounds=60)
        answer = check_answer(real, found, max_seconds=0.001)
    assert sessions(found) == 1
    assert (answer.code, answer.json["verdict"]) == (4, "INCONCLUSIVE")
    assert answer.lines[-1].startswith("verdict: INCONCLUSIVE after 1 sessions")
