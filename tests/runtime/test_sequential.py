"""The rule of the gate: its thresholds, and what it calls what."""

from __future__ import annotations

import numpy as np
import pytest

from enginewright_runtime.budget import Verdict
from enginewright_runtime.errors import NotEnoughSamples
from enginewright_runtime.sequential import LOOKS, PROFILES, Decision, PairedSession, decide, thresholds

STRICT = PROFILES["strict"]


def gate(sessions: list[PairedSession]) -> Decision:
    """What the rule says at the first look that decides."""
    for look in LOOKS:
        decision = decide(sessions[:look], STRICT)
        if decision.verdict is not None:
            break
    return decision


def sessions_of(
    centre: float, spread: float, *, slow: tuple[int, int] = (2, 2), count: int = 40, seed: int = 0
) -> list[PairedSession]:
    """Sessions whose centre and p90 are both `centre` with a spread."""
    logs = centre + spread * np.random.default_rng(seed).standard_normal((count, 2))
    return [PairedSession(float(one), float(other), *slow) for one, other in logs]


@pytest.mark.parametrize(
    ("alpha", "designed"),
    [(0.01 / 3, (5.91, 4.70, 4.14, 3.53, 3.29, 3.13)), (0.05, (3.58, 3.05, 2.73, 2.29, 2.07, 1.91))],
)
def test_the_thresholds_are_those_of_the_design_or_up_to_two_percent_more(
    alpha: float, designed: tuple[float, ...]
) -> None:
    """With the design's six looks. Its own figures spend 5 to 7 % more than alpha, by the simulation below."""
    ratios = np.array(thresholds(alpha, (8, 12, 16, 24, 32, 40))) / designed
    assert ratios.min() > 0.998
    assert ratios.max() < 1.02


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_the_risk_is_spent_as_planned_where_nothing_differs(alpha: float) -> None:
    """Student's t of one series, looked at seven times; the spread of these counts is 3 % of them or less."""
    generator, gates = np.random.default_rng(1), 20_000
    crossed, limits = np.zeros(len(LOOKS)), thresholds(alpha)
    for _ in range(10):
        values = generator.standard_normal((gates, LOOKS[-1]))
        alive = np.ones(gates, bool)
        for index, look in enumerate(LOOKS):
            seen = values[:, :look]
            hit = alive & (seen.mean(axis=1) / seen.std(axis=1, ddof=1) * np.sqrt(look) > limits[index])
            crossed[index] += hit.sum()
            alive &= ~hit
    assert np.cumsum(crossed)[-1] / (10 * gates) == pytest.approx(alpha, rel=0.06)
    assert np.cumsum(crossed)[2] / (10 * gates) == pytest.approx(alpha * 0.4**1.5, rel=0.15)


def test_more_comparisons_have_higher_thresholds() -> None:
    assert all(two > one for one, two in zip(thresholds(0.01 / 3), thresholds(0.01 / 6), strict=True))


@pytest.mark.parametrize(("alpha", "looks"), [(0.0, LOOKS), (0.6, LOOKS), (0.05, (8, 10)), (0.05, (3, 8))])
def test_thresholds_that_cannot_be_derived_are_refused(alpha: float, looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no thresholds"):
        thresholds(alpha, looks)


def test_the_same_engine_passes_at_the_first_look_that_the_tail_allows() -> None:
    decision = gate(sessions_of(0.0, 0.002))
    assert (decision.verdict, decision.sessions) == (Verdict.PASS, 8)
    assert [change.verdict for change in decision.changes] == [Verdict.PASS] * 3


def test_a_slow_down_of_five_percent_fails_at_the_first_look() -> None:
    decision = gate(sessions_of(0.05, 0.01))
    assert (decision.verdict, decision.sessions) == (Verdict.FAIL, 8)
    [centre, p90, tail] = decision.changes
    assert centre.verdict is p90.verdict is Verdict.FAIL
    assert tail.verdict is Verdict.PASS
    assert centre.low < 0.0513 < centre.high
    assert centre.value == pytest.approx(0.0513, abs=0.01)


def test_a_slower_tail_alone_fails() -> None:
    sessions = [PairedSession(0.0, 0.0, int(index % 3 == 0), 3 + index % 2) for index in range(40)]
    decision = gate(sessions)
    assert decision.verdict is Verdict.FAIL
    assert [change.metric for change in decision.changes if change.verdict is Verdict.FAIL] == ["tail"]
    assert decision.changes[2].value == pytest.approx(140 / 14 - 1, rel=0.3)


def test_a_slow_down_between_the_limits_ends_inconclusive_at_the_cap() -> None:
    decision = gate(sessions_of(0.025, 0.06))
    assert (decision.verdict, decision.sessions) == (Verdict.INCONCLUSIVE, 40)


def test_between_the_looks_there_is_an_interval_and_no_verdict() -> None:
    sessions = sessions_of(0.2, 0.001)
    assert decide(sessions[:7], STRICT).verdict is None
    assert decide(sessions[:8], STRICT).verdict is Verdict.FAIL
    assert decide(sessions[:9], STRICT).verdict is None
    assert decide(sessions[:9], STRICT).changes[0].low > 0.19


def test_sessions_that_agree_by_chance_are_not_believed_to_agree() -> None:
    """With a spread of 0 the smallest change would be certain; the rule takes 0.05 % at the least."""
    change = decide([PairedSession(0.0051, 0.0, 2, 2)] * 8, STRICT).changes[0]
    assert change.low < 0.005 < change.value
    assert change.verdict is Verdict.PASS


def test_counts_of_slow_inferences_that_are_all_zero_never_pass() -> None:
    decision = decide(sessions_of(0.0, 0.001, slow=(0, 0)), STRICT)
    assert decision.verdict is Verdict.INCONCLUSIVE


def test_the_standard_profile_lets_more_pass() -> None:
    sessions = sessions_of(0.02, 0.001)
    assert gate(sessions).verdict is Verdict.FAIL
    assert decide(sessions[:8], PROFILES["standard"]).verdict is Verdict.FAIL
    assert decide(sessions_of(0.008, 0.001)[:8], PROFILES["standard"]).verdict is Verdict.PASS
    assert decide(sessions_of(0.008, 0.001)[:8], STRICT).verdict is Verdict.FAIL


def test_against_two_baselines_it_takes_more_to_fail() -> None:
    sessions = sessions_of(0.05, 0.02)[:8]
    one, two = (decide(sessions, STRICT, comparisons=count).changes[0] for count in (1, 2))
    assert two.low < one.low < one.value == two.value
    assert two.high == one.high


@pytest.mark.parametrize("seed", range(3))
def test_false_alarms_and_misses_are_rarer_than_promised(seed: int) -> None:
    """Sessions of a loaded machine: a spread of 1.5 %. 100 gates a case; the benchmark takes thousands."""
    alike = [gate(sessions_of(0.0, 0.015, seed=1000 * seed + index)).verdict for index in range(100)]
    slower = [gate(sessions_of(np.log(1.05), 0.015, seed=1000 * seed + index)).verdict for index in range(100)]
    assert alike.count(Verdict.FAIL) <= 4
    assert slower.count(Verdict.FAIL) >= 95
    assert Verdict.PASS not in slower


def test_too_few_and_too_many_sessions_are_refused() -> None:
    with pytest.raises(NotEnoughSamples, match="two sessions or more, and there are 1"):
        decide(sessions_of(0, 0.1, count=1), STRICT)
    with pytest.raises(ValueError, match="made for 40"):
        decide(sessions_of(0, 0.1, count=41), STRICT)


def test_a_decision_is_plain_json() -> None:
    change = decide(sessions_of(0.0, 0.001)[:8], STRICT).changes[0].to_json()
    assert change["verdict"] == "PASS"
    assert change["limits"] == {"fail_beyond": 0.005, "pass_within": 0.03}
