"""The report of a bundle, from the bundle alone: as it was packed, and with what devices have made of it since."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builder.report.finished_bundle import NANO, ORIN, bundle_of, measured, told_by
from tests.builder.report.report_cases import engine_layers, pending, signs
from tests.fake_cuda import ORIN as ORIN_DEVICE
from tests.runtime.tensorrt.conftest import install as install
from tests.runtime.tensorrt.networks import product
from tests.runtime.tiny_bundle import WEIGHTS

from enginewright.cli import main
from enginewright.report import render_html
from enginewright.report.bundle_report import report_of_bundle
from enginewright.report.data import ReportData
from enginewright_runtime import finishing
from enginewright_runtime.budget import Verdict
from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.errors import BundleError
from enginewright_runtime.finishing import finish_bundle
from enginewright_runtime.golden import Golden
from enginewright_runtime.host import machine
from enginewright_runtime.manifest import PendingEngine
from enginewright_runtime.tensorrt import gpu_time
from enginewright_runtime.unquantized import UNQUANTIZED_NAME, times_faster

LAYERS = engine_layers()
FLOORS = {
    "format": 1,
    "layers": [
        {"name": "stem", "precision": "int8", "compute_floor_ns": 1_500.0, "memory_floor_ns": 90_000.0},
        {"name": "relu1", "precision": "float16", "compute_floor_ns": None, "memory_floor_ns": 9.0},
    ],
}


def waiting() -> ReportData:
    """The report of a pending bundle; by its twin the engine loses 1.16 points."""
    return pending()


def test_a_pending_bundle_gives_the_page_that_it_was_packed_with(tmp_path: Path) -> None:
    data = waiting()
    assert render_html(report_of_bundle(bundle_of(tmp_path / "b.ewb", data, {}))) == render_html(data)


def test_a_bundle_that_was_measured_where_it_was_built_gives_the_same_page(tmp_path: Path) -> None:
    """The latencies come from the measurements, and everything else from what was stored."""
    warm, evicted = measured("reference", "engine"), measured("reference", "engine", sessions=3)
    evicted = replace(evicted, protocol=replace(evicted.protocol, caches="evicted", evicted_bytes=1 << 20))
    files = {
        **told_by(ORIN, warm),
        f"measurements/{ORIN.fingerprint}.evicted.json": evicted.to_bytes(),
    }
    found = report_of_bundle(bundle_of(tmp_path / "b.ewb", signs(), files, ORIN, pending=False))
    assert (found.verdict, found.devices, found.engine_layers) == (Verdict.PASS, (), None)
    assert found.latency is not None
    assert found.latency.engine_ns == [sample for one in warm.sessions_ns("engine") for sample in one]
    assert found.latency_evicted is not None
    assert len(found.latency_evicted.sessions) == 3
    assert replace(found, latency=None, latency_evicted=None) == replace(signs(), latency=None, latency_evicted=None)


def test_a_device_adds_its_latency_its_layers_and_its_verdict(tmp_path: Path) -> None:
    files = told_by(ORIN, measured("engine", "float16"), layers=LAYERS.layers, float16=LAYERS.float16, accuracy=0.945)
    files["floors.json"] = json.dumps(FLOORS).encode()
    bundle = bundle_of(tmp_path / "b.ewb", waiting(), files, ORIN, accuracy={"reference": 0.95, "engine": 0.945})
    found = report_of_bundle(bundle)
    [run] = found.devices
    assert (run.device, run.size_bytes, run.float16_peak_bytes) == ("Orin", len(files[ORIN.path]), 120 << 20)
    assert {finding.name: finding.verdict for finding in run.findings} == {
        "latency_p99_ms": Verdict.PASS,
        "accuracy_drop": Verdict.FAIL,  # 97.26 % where it was built, 94.5 % on the device
    }
    assert found.verdict is Verdict.FAIL
    assert run.evaluation is not None
    assert run.evaluation.accuracy == 0.945
    assert run.gpu is not None
    assert run.gpu.percentiles_ns["p50"] == 300_000
    assert {"warm up 200 ms", "cuda graph no", "transfers no"} <= set(run.gpu.flags)
    assert run.layers is not None
    assert (run.layers.layers, run.layers.float16, run.layers.runs) == (LAYERS.layers, LAYERS.float16, 50)
    assert run.layers.floors_ns == {"stem": 1_500.0}
    page = render_html(found)
    assert re.search(r"(1\.9|2\.0)\d× as fast as the same network in float16", page)
    assert "this report gives no latency" not in page


def test_int8_that_is_slower_than_float16_is_told_as_the_runtime_tells_it_and_warned_of(tmp_path: Path) -> None:
    """The ratio is the median of the sessions' ratios, not that of the pooled samples."""
    taken = measured("engine", "float16", sessions=3)
    speeds = ((1000, 1400), (1000, 1410), (5000, 7300))  # by session: float16 and the engine
    sessions = tuple(
        replace(session, samples_ns={"float16": (slow,) * 200, "engine": (fast,) * 200})
        for session, (slow, fast) in zip(taken.sessions, speeds, strict=True)
    )
    taken = replace(taken, sessions=sessions)
    told = statistics.median(times_faster(taken))
    assert told == 1000 / 1410
    page = render_html(report_of_bundle(bundle_of(tmp_path / "b.ewb", waiting(), told_by(ORIN, taken), ORIN)))
    assert "on Orin; there it is 1.41× slower than the same network in float16" in page
    assert "<li>on Orin the engine is 1.41× slower than the same network in float16: keep the layers" in page
    assert "0.709×</td>" in page  # the ratio in the table of percentiles
    assert "as fast as the same network" not in page


def test_what_the_runtime_writes_on_a_device_is_what_the_report_reads(
    tmp_path: Path, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fake TensorRT, and a measurement that nobody took."""
    install("10.3.0", on=ORIN_DEVICE)
    monkeypatch.setattr(finishing, "measure", lambda *given, **named: measured("engine", "float16"))
    monkeypatch.setattr(gpu_time, "time_on_gpu", partial(gpu_time.time_on_gpu, warm_up_ns=1, least_ns=1))
    path = tmp_path / "b.ewb"
    here = PendingEngine("tensorrt", ORIN.settings, {"machine": machine(), "compute_capability": "8.7"})
    networks = {UNQUANTIZED_NAME: product(quantized=False), "floors.json": json.dumps(FLOORS).encode()}
    bundle = bundle_of(path, waiting(), networks)
    files = {**{name: bundle.read(name) for name in bundle.contents}, "model.onnx": product(quantized=True)}
    x = np.array([[3, 0, 0, 0]], np.float32)
    golden = Golden({"x": x}, {"y": np.maximum(x @ WEIGHTS, 0)}, {"y": np.array(1e-4, np.float32)})
    files["golden.npz"] = golden.to_bytes()
    write_bundle(path, replace(bundle.manifest, pending=(here,)), files)
    finish_bundle(read_bundle(path), path)
    [run] = report_of_bundle(read_bundle(path)).devices
    assert run.device == "Orin"
    assert run.latency.reference_ns
    assert run.gpu is not None
    assert run.gpu.samples == 10
    assert run.layers is not None
    assert [(layer.nodes, layer.time_ns) for layer in run.layers.layers] == [(("conv1", "relu1"), 200_000)]
    assert run.layers.float16 == run.layers.layers
    assert run.layers.runs == 50


def test_without_an_evaluation_on_the_device_the_accuracy_is_the_twins(tmp_path: Path) -> None:
    """Though the manifest has that of another device by then."""
    files = {**told_by(ORIN, measured("engine"), accuracy=0.5), **told_by(NANO, measured("engine"))}
    bundle = bundle_of(tmp_path / "b.ewb", waiting(), files, ORIN, NANO, accuracy={"reference": 0.95, "engine": 0.5})
    orin, nano = report_of_bundle(bundle).devices
    drops = [next(item.value for item in run.findings if item.name == "accuracy_drop") for run in (orin, nano)]
    assert drops == pytest.approx([0.9726 - 0.5, 0.0116], abs=1e-4)
    assert "No test samples were run on the device: the accuracy is that of the build" in render_html(
        report_of_bundle(bundle)
    )


def test_each_engine_has_its_section_and_the_worst_verdict_is_the_bundles(tmp_path: Path) -> None:
    files = {**told_by(ORIN, measured("engine", "float16")), **told_by(NANO, measured("engine", engine_ms=1.9))}
    data = replace(waiting(), reference=replace(waiting().reference, evaluation=None))
    found = report_of_bundle(bundle_of(tmp_path / "b.ewb", data, files, ORIN, NANO))
    assert [run.verdict for run in found.devices] == [Verdict.PASS, Verdict.FAIL]
    assert found.verdict is Verdict.FAIL
    page = render_html(found)
    assert "2 engines of this bundle were measured: PASS on Orin, FAIL on Orin Nano." in page
    assert "Measured on Orin Nano" in page


def test_the_gpu_and_the_chunks_in_which_its_clock_changed_are_told(tmp_path: Path) -> None:
    taken = measured("engine")
    throttled = {"gpu_throttles": (0,) * 39 + (1,)}
    sessions = tuple(replace(session, chunk_conditions={"engine": throttled}) for session in taken.sessions)
    gpu = {"name": "Orin", "sm_count": 16, "power_mode": "MAXN"}
    taken = replace(taken, sessions=sessions, host={**taken.host, "gpu": gpu})
    data = report_of_bundle(bundle_of(tmp_path / "b.ewb", waiting(), told_by(ORIN, taken), ORIN))
    facts = {fact.name: fact.value for fact in data.devices[0].conditions}
    assert facts["chunks in which clocks changed or were throttled"] == "6 of 240"
    assert "on Orin (16 SMs, power mode MAXN)" in render_html(data)


def test_engines_of_one_device_go_by_their_fingerprints(tmp_path: Path) -> None:
    newer = replace(NANO, requires={**ORIN.requires, "tensorrt": "10.7.0"})
    files = {**told_by(ORIN, measured("engine")), **told_by(newer, measured("engine"))}
    page = render_html(report_of_bundle(bundle_of(tmp_path / "b.ewb", waiting(), files, ORIN, newer)))
    assert f"PASS on {NANO.fingerprint}" in page or f"FAIL on {NANO.fingerprint}" in page


def test_an_engine_that_was_never_measured_has_no_section(tmp_path: Path) -> None:
    found = report_of_bundle(bundle_of(tmp_path / "b.ewb", waiting(), {ORIN.path: b"e"}, ORIN))
    assert (found.devices, found.verdict) == ((), Verdict.PENDING)


def test_a_bundle_of_an_older_version_says_what_its_report_cannot_show(tmp_path: Path) -> None:
    files = told_by(ORIN, measured("engine", "float16"), layers=LAYERS.layers, float16=LAYERS.float16)
    found = report_of_bundle(bundle_of(tmp_path / "b.ewb", None, files, ORIN))
    assert found.verdict is Verdict.PASS
    assert "this bundle holds no report.json" in found.warnings[0]
    page = render_html(found)
    assert re.search(r"(1\.9|2\.0)\d× as fast as the same network in float16", page)
    assert "The engine was not evaluated." in page


def test_a_pending_bundle_of_an_older_version_is_pending(tmp_path: Path) -> None:
    found = report_of_bundle(bundle_of(tmp_path / "b.ewb", None, {}))
    assert found.verdict is Verdict.PENDING
    assert {finding.name: finding.verdict for finding in found.findings} == {
        "latency_p99_ms": Verdict.PENDING,
        "accuracy_drop": Verdict.PASS,
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (f"engines/{ORIN.fingerprint}/layers.json", b'{"format": 9}', "format must be one of 1, 2, got 9"),
        (f"engines/{ORIN.fingerprint}/float16-layers.json", b"[", "not valid JSON"),
        (f"measurements/{ORIN.fingerprint}.gpu.json", b'{"format": 1}', "lacks the key 'flags'"),
        (f"evaluations/{ORIN.fingerprint}.json", b'{"format": 1}', "lacks the key 'metric'"),
        ("floors.json", b'{"format": 1, "layers": 3}', "layers must be a list, got 3"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place_in_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    files = told_by(ORIN, measured("engine"), layers=LAYERS.layers, float16=LAYERS.float16, accuracy=0.9)
    bundle = bundle_of(tmp_path / "b.ewb", waiting(), {**files, name: content}, ORIN)
    with pytest.raises(BundleError, match=f"{re.escape(name)}.*{re.escape(message)}"):
        report_of_bundle(bundle)


def test_layers_of_the_first_format_have_no_times(tmp_path: Path) -> None:
    one = {"name": "a", "kind": "conv", "nodes": ["stem"], "precision": "int8", "writes": "int8"}
    first = {"format": 1, "layers": [{**one, "reformat": False, "multiplies": True}]}
    files = told_by(ORIN, measured("engine"))
    files[f"engines/{ORIN.fingerprint}/layers.json"] = json.dumps(first).encode()
    found = report_of_bundle(bundle_of(tmp_path / "b.ewb", waiting(), files, ORIN))
    assert found.devices[0].layers is not None
    assert found.devices[0].layers.layers[0].time_ns is None
    assert "The time of each layer was not taken." in render_html(found)


def test_the_command_writes_the_page_beside_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle_of(tmp_path / "tiny-orin.ewb", waiting(), told_by(ORIN, measured("engine")), ORIN)
    assert main(["report", str(tmp_path / "tiny-orin.ewb")]) == 0
    page = tmp_path / "tiny-orin.report.html"
    assert f"{page}: FAIL, with {ORIN.fingerprint}" in capsys.readouterr().out
    assert "Measured on Orin" in page.read_text(encoding="utf-8")
    other = tmp_path / "other.html"
    assert main(["report", str(tmp_path / "tiny-orin.ewb"), "--output", str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "report": str(other),
        "verdict": "FAIL",
        "engines": [ORIN.fingerprint],
    }
    assert other.read_bytes() == page.read_bytes()


def test_the_command_refuses_a_bundle_that_was_altered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bundle_of(tmp_path / "b.ewb", waiting(), {}).path
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    assert main(["report", str(path)]) == 2
    assert "it was altered" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_says_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bundle_of(tmp_path / "b.ewb", waiting(), {}).path
    assert main(["report", str(path), "--output", str(tmp_path / "nowhere" / "page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
