"""The questions that `bench` answers, on a real engine that takes microseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.telemetry.device_trees import device_tree

from enginewright_runtime import cli
from enginewright_runtime.bench.beside import bench_beside, ratios
from enginewright_runtime.bench.cold_start import PHASES, bench_cold_start, total_ns
from enginewright_runtime.bench.rate import bench_rate
from enginewright_runtime.bench.soak import Window, bench_soak, drift_of
from enginewright_runtime.bench.subject import Subject, subject
from enginewright_runtime.bench.tasks import MOST_SAMPLES, Tasks
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import EngineError, MeasurementError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.telemetry import Reading, Telemetry
from enginewright_runtime.warm_up import WarmUpRule

QUICK = WarmUpRule(least_ns=0, least_count=10, window=5, steady_share=0.5, steady_times=1, cap_ns=1_000_000_000)


@pytest.fixture
def tiny(tiny_path: Path) -> Any:
    with subject(read_bundle(tiny_path)) as found:
        yield found


def progress(seen: list[tuple[int, int]]) -> Callable[[int, int], None]:
    return lambda done, total: seen.append((done, total))


def test_frames_at_a_rate_are_answered_in_fresh_processes_and_all_are_kept(tiny: Subject) -> None:
    seen: list[tuple[int, int]] = []
    answer, raw = bench_rate(
        tiny, rate_hz=500, deadline_ms=None, sessions=2, frames=40, warm_up=QUICK, on_progress=progress(seen)
    )
    record = json.loads(raw)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert (record["kind"], record["settings"]["deadline_ns"]) == ("rate", 2_000_000)
    answered = [len(session["indices"]) for session in record["sessions"]]
    assert answer.json["arrived"] == 80
    assert answer.json["dropped"] == 80 - sum(answered)
    assert all(session["ends_ns"][-1] >= 39 * 2_000_000 for session in record["sessions"])
    assert answer.code == 0
    assert any("deadline 2 ms (when the next frame is due): " in line for line in answer.lines)


def test_frames_arrive_while_others_run_beside(tiny: Subject) -> None:
    answer, raw = bench_rate(
        tiny,
        rate_hz=500,
        deadline_ms=1.0,
        others=[tiny],
        sessions=1,
        frames=20,
        warm_up=QUICK,
        on_progress=progress([]),
    )
    [session] = json.loads(raw)["sessions"]
    assert len(session["others_ns"][0]) > 20
    assert answer.lines[1] == "beside tiny, running back to back"


def test_an_engine_beside_others_is_timed_alone_and_in_their_company(tiny: Subject) -> None:
    answer, raw = bench_beside(tiny, [tiny, tiny], sessions=2, rounds=4, warm_up=QUICK, on_progress=progress([]))
    for session in json.loads(raw)["sessions"]:
        assert [len(session["samples_ns"][kind]) for kind in ("alone", "beside")] == [20, 20]
        assert len(session["others_ns"]) == 2
        assert all(len(samples) >= 4 for samples in session["others_ns"])
    assert len(answer.json["ratios"]) == 2  # type: ignore[arg-type] # a list
    assert "over the 2 processes" in answer.lines[-1]


def test_the_cost_of_company_is_the_ratio_of_the_medians_of_each_process() -> None:
    sessions = [{"alone": [10, 11, 900], "beside": [22, 22, 20]}, {"alone": [10, 10, 10], "beside": [10, 15, 15]}]
    assert ratios(sessions) == [2.0, 1.5]


def test_a_cold_start_is_split_into_its_phases(tiny: Subject) -> None:
    answer, raw = bench_cold_start(tiny, sessions=1, on_progress=progress([]))
    [session] = json.loads(raw)["sessions"]
    assert all(session[phase] > 0 for phase in PHASES)
    assert answer.json["first_answer_ns"] == [total_ns(session)]
    assert session["second_load_ns"] < session["load_ns"]  # the library is imported once


def test_a_cold_start_that_fails_is_told_in_the_process_s_own_words(tiny: Subject, tmp_path: Path) -> None:
    tiny.bundle.__dict__["path"] = tmp_path / "gone.ewb"
    with pytest.raises(MeasurementError, match=r"gone\.ewb: no such file"):
        bench_cold_start(tiny, sessions=1, on_progress=progress([]))


def test_several_cold_starts_are_told_by_their_middle_and_their_extremes(tiny: Subject) -> None:
    made = iter(range(1, 4))

    def start(bundle: Path) -> Mapping[str, int]:
        scale = next(made) * 1_000_000
        return dict.fromkeys((*PHASES, "second_run_ns", "second_load_ns"), scale)

    answer, _ = bench_cold_start(tiny, sessions=3, on_progress=progress([]), start=start)
    assert answer.lines[0].endswith("first answer after 10 ms (5 to 15), 3 fresh processes")
    assert "  verify the bundle                2 ms (1 to 3)" in answer.lines


def test_a_soak_keeps_its_windows_with_the_sensors_and_says_what_is_not_told(tiny: Subject, tmp_path: Path) -> None:
    orin = Telemetry(root=device_tree("orin-jetpack6", tmp_path), load_library=refuse, run=lambda command: mode)
    answer, raw = bench_soak(
        tiny, soak_seconds=2, rate_hz=None, warm_up=QUICK, telemetry=orin, on_progress=progress([])
    )
    [session] = json.loads(raw)["sessions"]
    assert len(session["windows"]) == 2
    for window in session["windows"]:
        assert 0 < len(window["samples_ns"]) <= 2_000
        assert window["resident_bytes"] > 1 << 20
        assert window["reading"]["temperatures_c"] == {"cpu-thermal": 52.437, "gpu-thermal": 61.5}
    assert "latency: too few windows to tell a drift (2, and 60 are needed)" in answer.lines
    assert "hottest of all: 61.5 C" in answer.lines
    assert "power mode: MODE_30W" in answer.lines
    assert "not told here: nothing counts how often the clocks were throttled" in answer.lines


mode = "NV Power Mode: MODE_30W\n2\n"


def refuse(name: str) -> Any:
    raise OSError(name)


def test_a_soak_at_a_rate_runs_at_that_rate(tiny: Subject) -> None:
    answer, _ = bench_soak(tiny, soak_seconds=1, rate_hz=100, warm_up=QUICK, on_progress=progress([]))
    assert 1 <= answer.json["inferences"] <= 100  # type: ignore[operator] # a number


def test_a_latency_that_grows_from_window_to_window_is_a_drift() -> None:
    minute = 60_000_000_000
    windows = [Window(minute * index, 100.0 + index, (), 9, None, Reading()) for index in range(1, 61)]
    found = drift_of(windows, lambda window: window.median_ns)
    assert found is not None
    assert found.certain
    assert found.slope == pytest.approx(59 / 130.5, rel=0.01)
    assert drift_of(windows[:5], lambda window: window.median_ns) is None


def field(**value: Json) -> JsonField:
    return JsonField(value, "request", MeasurementError)


def test_a_window_keeps_no_more_samples_than_an_answer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**9))
    monkeypatch.setattr("enginewright_runtime.bench.tasks.time.perf_counter_ns", lambda: next(clock))
    found = Tasks(lambda: 7).window(field(duration_ns=MOST_SAMPLES + 500))
    assert len(found["samples_ns"]) == MOST_SAMPLES  # type: ignore[arg-type] # a list
    assert found["count"] == MOST_SAMPLES + 499


def test_a_load_that_fails_is_told_when_it_ends_and_not_lost() -> None:
    def fail() -> int:
        raise EngineError("the engine is closed")

    tasks = Tasks(fail)
    tasks.load(field())
    with pytest.raises(EngineError, match="the engine is closed"):
        tasks.rest(field())
    with pytest.raises(MeasurementError, match="there is no load to end"):
        tasks.rest(field())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cold-start", "--beside", "b.ewb"], "--beside and --cold-start are questions of their own"),
        (["--soak-seconds", "5", "--beside", "b.ewb"], "--beside does not go with --soak-seconds"),
        (["--deadline-ms", "5"], "--deadline-ms goes with --rate-hz"),
        (["--soak-seconds", "5", "--sessions", "3"], "--sessions does not go with --soak-seconds"),
        (["--rate-hz", "30", "--caches", "evicted"], "--caches does not go with --rate-hz"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, tiny_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", str(tiny_path), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate-hz", "0"], "a rate from 1 to 10000 Hz was expected, got '0'"),
        (["--rate-hz", "nan"], "a rate from 1 to 10000 Hz was expected, got 'nan'"),
        (["--soak-seconds", "-3"], "seconds above 0, up to 259200, were expected, got '-3'"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "a.ewb", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_asks_the_question_and_writes_the_samples(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.json"
    monkeypatch.setattr(
        "enginewright_runtime.bench.command.bench_rate",
        lambda measured, **rest: bench_rate(measured, **rest, frames=20, warm_up=QUICK),
    )
    code = cli.main(["bench", str(tiny_path), "--rate-hz", "400", "--sessions", "1", "--json", "--output", str(path)])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "session 0 of 1\nsession 1 of 1\n")
    assert json.loads(said.out)["arrived"] == 20
    assert json.loads(path.read_bytes())["sessions"][0]["frames"] == 20
