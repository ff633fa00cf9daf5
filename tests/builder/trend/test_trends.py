"""The history of bundles and measurement files: in order, compared only where it compares, drawn and told."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.tiny_bundle import tiny_manifest, tiny_model

from enginewright.cli import main
from enginewright.trend.chart import trend_chart
from enginewright.trend.history import Figure, Point, in_commit_order, read_history
from enginewright.trend.page import render_trends
from enginewright.trend.trends import series_of, trends_of
from enginewright_runtime.bundle import write_bundle
from enginewright_runtime.canonical import Json
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.measurement import MeasuredEngine, Measurement, Protocol, SessionRecord
from enginewright_runtime.warm_up import WarmUp, WarmUpRule

HOST: Mapping[str, Json] = {"cpu": "Some <CPU>", "kernel": "6.1"}
WARM = WarmUp(count=1, elapsed_ns=1, settled=True, window_medians_ns=())


def measured(median_ms: float, *, host: Mapping[str, Json] = HOST, seed: int = 0) -> Measurement:
    """Two sessions of 150 inferences around a median."""
    generator = random.Random(seed)
    sessions = [tuple(round(median_ms * 1e6 * generator.lognormvariate(0, 0.02)) for _ in range(150)) for _ in range(2)]
    both: dict[str, Any] = {"conditions_before": {}, "conditions_after": {}}
    return Measurement(
        host=host,
        protocol=Protocol(
            threads={"engine": 1},
            interleaved=False,
            sessions=2,
            rounds=30,
            chunk=5,
            dropped_per_chunk=1,
            seed=0,
            warm_up=WarmUpRule(),
        ),
        engines={"engine": MeasuredEngine(sha256="0" * 64, size_bytes=1 << 20, backend="onnxruntime", settings={})},
        sessions=tuple(
            SessionRecord(
                samples_ns={"engine": session},
                cpu_ns={"engine": (1,)},
                warm_up={"engine": WARM},
                peak_rss_bytes={"engine": 64 << 20},
                **both,
            )
            for session in sessions
        ),
    )


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Twenty measurements, 10 % slower from the eleventh on."""
    folder = tmp_path / "history"
    folder.mkdir()
    for number in range(20):
        found = measured(1.0 if number < 10 else 1.1, seed=number)
        (folder / f"run-{number}.json").write_bytes(found.to_bytes())
    return folder


def test_a_folder_is_read_in_the_order_of_its_numbers(history: Path) -> None:
    points = read_history([history])
    assert [point.label for point in points] == [f"run-{number}" for number in range(20)]
    assert points[0].figures["latency_p50_ms"].value == pytest.approx(1.0, rel=0.02)
    low, high = points[0].figures["latency_p50_ms"].low, points[0].figures["latency_p50_ms"].high
    assert low is not None
    assert high is not None
    assert low <= points[0].figures["latency_p50_ms"].value <= high
    assert points[0].figures["memory_mib"] == Figure(64.0)
    assert "latency_p99_ms" in points[0].figures  # 300 samples carry it


def test_a_change_is_marked_with_where_and_by_how_much(history: Path) -> None:
    [trend] = trends_of(read_history([history]))
    latency = next(series for series in trend.series if series.metric == "latency_p50_ms")
    [change] = latency.changes
    assert change.label == "run-10"
    assert change.share == pytest.approx(0.1, abs=0.01)
    assert [series.metric for series in trend.series if series.changes] == ["latency_p50_ms", "latency_p99_ms"]


def test_other_hosts_have_a_trend_of_their_own(history: Path) -> None:
    other = measured(9.0, host={"cpu": "Another", "kernel": "6.1"})
    (history / "run-10.5.json").write_bytes(other.to_bytes())
    first, second = trends_of(read_history([history]))
    assert (first.points, second.points, second.host) == (20, 1, "Another")


def test_another_power_mode_has_a_trend_of_its_own_and_is_named(tmp_path: Path) -> None:
    for number, mode in enumerate(("MAXN", "MODE_30W")):
        there = measured(2.0, host={"cpu": "An Orin's", "gpu": {"name": "Orin", "power_mode": mode}})
        (tmp_path / f"run-{number}.json").write_bytes(there.to_bytes())
    assert [trend.host for trend in trends_of(read_history([tmp_path]))] == [
        "An Orin's, Orin MAXN",
        "An Orin's, Orin MODE_30W",
    ]


def test_a_bundle_has_its_accuracy_too_and_what_else_was_measured_is_left_out(tmp_path: Path) -> None:
    entry = EngineEntry("a", "onnxruntime", "engines/a/engine", {}, {})
    files = {"model.onnx": tiny_model(), entry.path: b"engine", entry.measurement_path: measured(2.0).to_bytes()}
    files |= {"measurements/a.evicted.json": b"{}", "measurements/a.gpu.json": b"{}"}
    write_bundle(tmp_path / "one.ewb", replace(tiny_manifest(), engines=(entry,)), files)
    [point] = read_history([tmp_path / "one.ewb"])
    assert point.figures["accuracy"] == Figure(0.94)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_files_that_are_named_after_commits_are_in_the_order_of_the_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q")
    commits = []
    for number in range(4):
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", str(number))
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
        (tmp_path / f"{commits[-1][:12]}.json").write_bytes(measured(1.0).to_bytes())
    monkeypatch.chdir(tmp_path)
    assert [point.label for point in read_history([tmp_path])] == [commit[:12] for commit in commits]


def test_a_name_that_is_no_commit_leaves_the_order_as_it_is(history: Path) -> None:
    points = read_history([history])
    assert in_commit_order(points, ["run-1" + "0" * 35]) == points


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty", None, "there is no bundle and no measurement file"),
        ("gone.json", None, "gone.json: no such file or folder"),
        ("odd.json", b"[]", "odd.json: "),
        ("odd.ewb", b"no bundle", "odd.ewb: not an enginewright bundle"),
    ],
)
def test_what_is_no_history_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes | None, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert main(["trend", str(tmp_path / name)]) in (2, 4)
    assert message in capsys.readouterr().err


class Tags(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.classes: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.classes += [value or "" for name, value in attrs if name == "class"]
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_has_a_dot_for_each_commit_a_mark_for_each_change_and_fetches_nothing(history: Path) -> None:
    page = render_trends(trends_of(read_history([history])))
    found = Tags()
    found.feed(page)
    assert found.classes.count("engine") == 4 * 20
    assert found.classes.count("limit") == 2
    assert found.links == []
    assert "Some &lt;CPU&gt;" in page
    assert "<CPU>" not in page
    assert page == render_trends(trends_of(read_history([history])))


def test_the_command_tells_the_changes_and_writes_the_page(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trend", str(history), "--output", str(tmp_path / "trend.html")]) == 0
    out = capsys.readouterr().out
    assert "from run-10 on: " in out
    assert "  size_mib        1 at run-19; no change" in out
    assert (tmp_path / "trend.html").read_text().startswith("<!DOCTYPE html>")
    assert main(["trend", str(history), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trends"][0]["series"][0]["changes"][0]["label"] == "run-10"
    assert main(["trend", str(history), "--output", str(tmp_path / "no" / "trend.html")]) == 2


def test_a_history_that_is_too_short_is_not_called_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.json").write_bytes(measured(1.0).to_bytes())
    assert main(["trend", str(tmp_path)]) == 0
    assert "latency_p50_ms  1 at 4; fewer than 6 measurements tell no change" in re.sub(
        r" 0\.99\d+| 1\.00\d*", " 1", capsys.readouterr().out
    )


def test_a_metric_that_was_zero_grows_by_no_share() -> None:
    values = [0.0] * 6 + [0.5] * 6
    found = measured(1.0)
    series = series_of("accuracy", [Point("c", Path("a"), found, {"accuracy": Figure(value)}) for value in values])
    assert series is not None
    [change] = series.changes
    assert change.to_json()["share"] is None
    assert ">changed</text>" in str(trend_chart(series, "Accuracy"))
