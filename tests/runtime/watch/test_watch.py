"""The watch: what is observed reaches the judge, the window rolls, and nothing that happens to it reaches the application."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from array import array
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.telemetry.device_trees import device_tree

from enginewright_runtime import cli
from enginewright_runtime.budget import Verdict
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.telemetry import Reading, Telemetry
from enginewright_runtime.watch import Watch
from enginewright_runtime.watch import process as process_module
from enginewright_runtime.watch.process import Guard
from enginewright_runtime.watch.prometheus import Page, exposition, serve
from enginewright_runtime.watch.rolling import FAILED, RollingWindow, WatchRule, blocks
from enginewright_runtime.watch.watch import _listen

BUDGET = {"latency_p99_ms": 2.0, "size_mib": 1.0}
RULE = WatchRule(every_s=10, window_s=60)
FAST, SLOW = 1_000_000, 3_000_000


def calls(count: int, *, slow: int = 0) -> list[int]:
    """Calls of which so many, evenly spread, are slow."""
    every = count // slow if slow else count + 1
    return [SLOW if slow and index % every == 0 and index // every < slow else FAST for index in range(count)]


def test_a_window_of_fast_calls_passes_and_judges_latencies_alone() -> None:
    window = RollingWindow(BUDGET, RULE)
    window.add(calls(1800))
    found = window.judge(10.0, 10.0)
    assert [finding.name for finding in found.findings] == ["latency_p99_ms"]
    assert (found.verdict, found.calls, found.latency_ns["p50"]) == (Verdict.PASS, 1800, FAST)


def test_a_latency_beyond_its_budget_fails_the_window_and_is_forgotten_with_it() -> None:
    window = RollingWindow(BUDGET, RULE)
    window.add(calls(1800, slow=400))
    assert window.judge(10.0, 10.0).verdict is Verdict.FAIL
    for at in range(20, 70, 10):
        window.add(calls(300))
        assert window.judge(float(at), float(at)).verdict is not Verdict.PASS
    window.add(calls(300))
    last = window.judge(70.0, 70.0)
    assert (last.verdict, last.calls, last.calls_total) == (Verdict.PASS, 1800, 3600)


def test_a_clock_that_is_set_back_or_forward_changes_no_window() -> None:
    window = RollingWindow(BUDGET, RULE)
    window.add(calls(1800, slow=400))
    assert window.judge(1.7e9, 10.0).verdict is Verdict.FAIL
    window.add(calls(1800))
    back = window.judge(0.0, 75.0)
    assert (back.at_s, back.calls, back.verdict) == (0.0, 1800, Verdict.PASS)
    assert window.judge(1.7e9, 80.0).calls == 1800


def test_too_few_calls_are_inconclusive_and_so_is_a_silent_application() -> None:
    window = RollingWindow(BUDGET, RULE)
    assert (window.judge(10.0, 10.0).verdict, window.judge(20.0, 20.0).calls) == (Verdict.INCONCLUSIVE, 0)
    window.add(calls(200))
    assert window.judge(30.0, 30.0).verdict is Verdict.INCONCLUSIVE


def test_an_application_at_the_very_limit_is_not_called_a_failure_all_the_time() -> None:
    generator = random.Random(1)
    failed = 0
    for _ in range(20):
        window = RollingWindow(BUDGET, RULE)
        window.add([SLOW if generator.random() < 0.01 else FAST for _ in range(1800)])
        failed += window.judge(10.0, 10.0).verdict is Verdict.FAIL
    assert failed == 0


def test_a_bundle_without_a_latency_budget_has_nothing_to_judge() -> None:
    window = RollingWindow({"size_mib": 1.0}, RULE)
    window.add(calls(1800))
    assert window.judge(10.0, 10.0).verdict is Verdict.INCONCLUSIVE


def test_calls_that_raise_are_counted_and_have_no_latency() -> None:
    window = RollingWindow(BUDGET, RULE)
    window.add([FAST, FAILED, FAST])
    found = window.judge(10.0, 10.0)
    assert (found.calls_total, found.failures_total, found.elapsed_total_ns) == (2, 1, 2 * FAST)


def test_stretches_are_equal_in_length_and_keep_the_order() -> None:
    assert [list(block) for block in blocks(range(21))][:2] == [[1, 2], [3, 4]]
    assert {len(block) for block in blocks(range(1_807))} == {180}


def guard(tmp_path: Path, write: Any = None) -> Guard:
    telemetry = Telemetry(root=device_tree("orin-jetpack5", tmp_path), load_library=refuse, run=lambda command: "")
    return Guard("signs", RollingWindow(BUDGET, RULE), telemetry, write=write, page=Page())


def refuse(name: str) -> Any:
    raise OSError(name)


def test_a_line_has_the_verdict_and_the_sensors(tmp_path: Path) -> None:
    lines: list[bytes] = []
    found = guard(tmp_path, lines.append)
    found.window.add(calls(1800, slow=400))
    (tmp_path / "sys/class/hwmon/hwmon2/oc1_event_cnt").write_text("2\n")
    found.judge(1.5e9, 1.5e9)
    line = json.loads(lines[0])
    assert (line["bundle"], line["verdict"], line["calls"], line["format"]) == ("signs", "FAIL", 1800, 1)
    assert line["throttled"] == {"oc1": 2}
    assert line["clocks_mhz"]["gpu"] == 306.0
    assert found.exit_code == 1


def test_one_window_that_failed_decides_how_it_ends_and_nothing_judged_is_no_success(tmp_path: Path) -> None:
    found = guard(tmp_path)
    found.judge(0.0, 0.0)
    assert found.exit_code == 4
    found.window.add(calls(1800))
    found.judge(100.0, 100.0)
    assert found.exit_code == 0
    found.window.add(calls(1800, slow=900))
    found.judge(200.0, 200.0)
    found.judge(300.0, 300.0)
    assert found.exit_code == 1


def test_prometheus_gets_quantiles_verdicts_and_sensors_with_names_escaped() -> None:
    window = RollingWindow(BUDGET, RULE)
    window.add([*calls(1800), FAILED])
    reading = Reading(temperatures_c={"gpu": 61.5}, clocks_mhz={"gpu": 1300.5})
    page = exposition('a"b\\c\n', window.judge(12.0, 12.0), reading)
    assert "# TYPE enginewright_latency_seconds summary\n" in page
    assert 'enginewright_latency_seconds{bundle="a\\"b\\\\c\\n",quantile="0.5"} 0.001\n' in page
    assert 'quantile="0.999"' not in page  # 1800 calls do not carry it
    assert 'enginewright_budget_verdict{bundle="a\\"b\\\\c\\n",budget="latency_p99_ms",verdict="PASS"} 1\n' in page
    assert 'verdict="FAIL"} 0\n' in page
    assert "enginewright_failures_total{" in page
    assert 'enginewright_clock_hertz{clock="gpu"} 1300500000\n' in page
    assert all(line.startswith(("#", "enginewright_")) for line in page.splitlines())


def test_quantiles_have_the_names_that_people_ask_for() -> None:
    window = RollingWindow(BUDGET, RULE)
    window.add(calls(3000))
    page = exposition("signs", window.judge(12.0, 12.0), Reading())
    assert [f'quantile="{name}"' in page for name in ("0.5", "0.99", "0.999")] == [True] * 3


def test_the_endpoint_is_on_the_loopback_interface_and_serves_metrics_alone() -> None:
    page = Page()
    page.text = "enginewright_window_calls{} 3\n"
    server = serve(page, _listen(0))
    try:
        host, port = server.socket.getsockname()
        assert host == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert answer.read().decode() == page.text
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
    finally:
        server.shutdown()
        server.server_close()


def test_a_watch_serves_what_it_judged(tmp_path: Path) -> None:
    with Watch({"latency_p50_ms": 1000.0}, name="signs", port=0, rule=WatchRule(every_s=0.1, window_s=60)) as watch:
        deadline, page = time.monotonic() + 20, ""
        while "enginewright_window_calls" not in page and time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{watch.port}/metrics", timeout=10) as answer:
                page = answer.read().decode()
        assert 'enginewright_window_calls{bundle="signs"} 0' in page


def test_a_place_that_cannot_be_had_is_told_at_once(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MeasurementError, match=r"no/w\.jsonl: cannot be written: No such file or directory"):
        Watch(BUDGET, lines="no/w.jsonl")
    with _listen(0) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["watch", str(tiny_path), "--port", str(port)]) == 4
    assert f"127.0.0.1:{port}: cannot be listened on" in capsys.readouterr().err


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_observed_call_reaches_the_judge_and_results_and_errors_reach_the_application(tmp_path: Path) -> None:
    path = tmp_path / "watch.jsonl"
    with Watch({"latency_p50_ms": 1000.0}, name="signs", lines=path) as watch:
        doubled = watch.observed(lambda number: 2 * number)
        assert [doubled(number) for number in range(3000)] == [2 * number for number in range(3000)]
        with pytest.raises(ZeroDivisionError):
            watch.observed(lambda number: 1 / number)(0)
        watch.observe(5_000_000)
    [line] = lines_of(path)
    assert (line["calls_total"], line["failures_total"], line["verdict"]) == (3001, 1, "PASS")
    assert watch.close() == 0  # once more does no harm


def test_calls_are_handed_on_while_the_application_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginewright_runtime.watch.watch._HAND_ON_NS", 1_000)
    path = tmp_path / "watch.jsonl"
    with Watch({"latency_p50_ms": 1000.0}, lines=path, rule=WatchRule(every_s=0.2, window_s=60)) as watch:
        run = watch.observed(lambda number: number)
        deadline = time.monotonic() + 20
        while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
            run(1)
            time.sleep(0.01)
        assert lines_of(path)[0]["calls"] >= 0


def test_calls_that_all_fail_are_handed_on_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("enginewright_runtime.watch.watch._HAND_ON_NS", 0)
    with Watch(BUDGET, lines=tmp_path / "w.jsonl") as watch:
        for _ in range(10):
            with pytest.raises(ZeroDivisionError):
                watch.observed(lambda number: 1 / number)(0)
        assert not watch._waiting
    assert lines_of(tmp_path / "w.jsonl")[-1]["failures_total"] == 10


def test_a_judge_that_died_does_not_stop_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginewright_runtime.watch.watch._HAND_ON_NS", 0)
    watch = Watch(BUDGET)
    watch._process.kill()
    watch._process.wait()
    run = watch.observed(lambda number: number)
    assert [run(number) for number in range(50)] == list(range(50))
    assert not watch.running
    assert watch.close() == -signal.SIGKILL


def test_a_judge_that_does_not_read_makes_no_call_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginewright_runtime.watch.watch._HAND_ON_NS", 0)
    watch = Watch({"latency_p50_ms": 1000.0})
    os.kill(watch._process.pid, signal.SIGSTOP)
    try:
        for _ in range(100_000):  # more than a pipe and the queue hold
            watch.observe(FAST)
        assert watch.running
        assert len(watch._waiting) == 1 << 16
    finally:
        os.kill(watch._process.pid, signal.SIGCONT)
        watch.close()


def test_a_pipe_is_not_closed_under_a_thread_that_is_handing_on() -> None:
    watch = Watch(BUDGET)
    assert watch._process.stdin is not None
    closing = threading.Thread(target=watch.close)
    with watch._handing_on:
        closing.start()
        closing.join(0.2)
        assert not watch._process.stdin.closed
    closing.join(30)
    assert watch._process.stdin.closed


def test_the_judge_reads_numbers_that_come_in_pieces() -> None:
    ours, theirs = os.pipe()
    sent = array("q", [1, 2, 3]).tobytes()
    os.write(theirs, sent[:11])
    rest = threading.Timer(0.1, lambda: (os.write(theirs, sent[11:]), os.close(theirs)))
    rest.start()
    try:
        found: list[int] = []
        while (piece := process_module._calls_until(ours, time.monotonic() + 20)) is not None:
            found += piece
        assert found == [1, 2, 3]
    finally:
        rest.join()
        os.close(ours)


def test_the_calls_end_where_an_application_dies_within_a_number() -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"half")
    os.close(theirs)
    ended: list[object] = []
    reader = threading.Thread(
        target=lambda: ended.append(process_module._calls_until(ours, time.monotonic())), daemon=True
    )
    reader.start()
    reader.join(30)
    assert ended == [None]
    os.close(ours)


def test_the_command_watches_until_the_time_is_over(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    code = cli.main(["watch", str(tiny_path), "--rate-hz", "2000", "--seconds", "0.6", "--output", str(path)])
    found = lines_of(path)
    assert found[-1]["calls_total"] > 0
    assert code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 4}[found[-1]["verdict"]]


def test_ctrl_c_is_how_a_watch_ends(tiny_path: Path) -> None:
    program = "import sys; from enginewright_runtime.cli import main; sys.exit(main())"
    source = str(Path(cli.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", program, "watch", str(tiny_path), "--rate-hz", "1000"],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert err == "" or "interrupted" in err  # before the watch began, it is any command's Ctrl-C
    if err == "":
        assert json.loads(out.splitlines()[-1])["calls_total"] >= 0
        assert process.returncode in (0, 1, 4)


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--port", "0"], ["--port", "70000"], ["--rate-hz", "x"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["watch", "a.ewb", *options])
        assert caught.value.code == 2
