"""A bundle goes to a device and comes back finished, through a connection that breaks, or is refused and nothing is lost."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.builder.device.lab import Lab, OpenSSH, wait_until
from tests.runtime.tiny_bundle import SETTINGS, WEIGHTS, make_bundle, tiny_golden, tiny_manifest, tiny_model
from tests.tiny_project import TinyProject

import enginewright_runtime
from enginewright.build import BuildResult
from enginewright.datasets import Batch
from enginewright.device.address import DeviceAddress
from enginewright.device.delivery import Delivered, finish, on_device, sendable
from enginewright.device.errors import DeviceFailed, DeviceLost, DeviceUnfit
from enginewright.device.evaluation import Evaluation
from enginewright.device.outcome import delivered_table
from enginewright.device.telling import Telling
from enginewright.metrics import make_metric
from enginewright.progress import PlainWatch
from enginewright.report import render_html
from enginewright.report.bundle_report import report_of_bundle
from enginewright_runtime.bundle import Bundle, read_bundle, write_bundle
from enginewright_runtime.errors import BundleError
from enginewright_runtime.host import machine
from enginewright_runtime.manifest import EngineEntry, PendingEngine

SAMPLES = 50


def evaluation(*, wrong: int = 0, samples: int = SAMPLES) -> Evaluation:
    """Inputs whose class the tiny network knows, `wrong` of them with a label that it does not give."""
    inputs = np.random.default_rng(0).normal(size=(samples, 4)).astype(np.float32)
    labels = np.maximum(inputs @ WEIGHTS, 0).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % 3
    batches = (Batch({"x": inputs[i : i + 8]}, labels[i : i + 8]) for i in range(0, samples, 8))
    return Evaluation(batches, samples, 8, make_metric({"name": "top1"}, Path()), None)


def pending(path: Path, *, off_by: float = 0.0, requires: Mapping[str, str] | None = None) -> Bundle:
    """A bundle whose engine the device makes."""
    waiting = PendingEngine("onnxruntime", SETTINGS, requires or {"machine": machine()})
    files = {"model.onnx": tiny_model(), "golden.npz": tiny_golden(off_by=off_by).to_bytes()}
    write_bundle(path, replace(tiny_manifest(), pending=(waiting,)), files)
    return read_bundle(path)


def delivered(
    lab: Lab | OpenSSH, bundle: Bundle, output: Path, *, wrong: int = 0, log: io.StringIO | None = None, **options: Any
) -> Delivered:
    telling = Telling(PlainWatch(log or io.StringIO()), lab.address)
    options = {"sessions": 1, "waits_s": (0.05, 0.1, 0.2), **options}
    return asyncio.run(on_device(bundle, evaluation(wrong=wrong), lab.address, output, telling=telling, **options))


def shown(came: Delivered) -> str:
    """The table, of a build of which only the names and the accuracies are looked at."""
    job: Any = SimpleNamespace(recipe=SimpleNamespace(name="tiny"), target=SimpleNamespace(name="cpu"))
    result = BuildResult((), {"accuracy": {"metric": "top1", "reference": 0.95, "engine": 0.94}}, {})
    return delivered_table(job, result, came)


def jobs(lab: Lab) -> list[Path]:
    return list((lab.folders.device / ".cache/enginewright/lab/jobs").glob("*"))


def test_a_pending_bundle_comes_back_compiled_evaluated_and_measured(ready_lab: Lab, tmp_path: Path) -> None:
    log = io.StringIO()
    came = delivered(ready_lab, pending(tmp_path / "sent.ewb"), tmp_path / "back.ewb", wrong=5, log=log)
    assert came.accuracy.value == 0.9
    assert came.samples == SAMPLES
    back = read_bundle(tmp_path / "back.ewb")
    assert back.manifest.accuracy == {"reference": 0.95, "engine": 0.9}
    assert json.loads(back.read(f"evaluations/{came.entry.fingerprint}.json"))["samples"] == SAMPLES
    assert len(came.measurement.sessions) == 1
    with enginewright_runtime.open(tmp_path / "back.ewb") as session:
        assert session.entry == came.entry
    page = back.read("report.html").decode()
    assert "on 50 test samples run on the device" in page
    assert page == render_html(report_of_bundle(back)) == render_html(came.report)
    stages = [line.split(":")[0] for line in log.getvalue().splitlines() if line.startswith("[")]
    assert stages == [
        "[1/5] device/connect",
        "[2/5] device/environment",
        "[3/5] device/compile",
        "[4/5] device/evaluate",
        "[5/5] device/bring back",
    ]
    assert "compiling the engine" in log.getvalue()
    assert jobs(ready_lab) == []
    table = shown(came)
    assert f"tiny for cpu, measured on {ready_lab.address}" in table
    assert "90.00% of 50 samples; where it was built 94.00%, reference 95.00%" in table
    assert "200 inferences in 1 fresh processes" in table
    assert f"verdict: {came.verdict.value}" in table


def test_a_bundle_whose_engine_is_for_another_processor_is_compiled_there(ready_lab: Lab, tmp_path: Path) -> None:
    whole = read_bundle(make_bundle(tmp_path / "whole.ewb"))
    [entry] = whole.manifest.engines
    path = "engines/other/engine"
    other = EngineEntry("other", entry.backend, path, entry.settings, {**entry.requires, "machine": "riscv64"})
    files = {**{name: whole.read(name) for name in whole.contents if name != entry.path}, path: b"elsewhere"}
    write_bundle(tmp_path / "other.ewb", replace(whole.manifest, engines=(other,)), files)
    came = delivered(ready_lab, read_bundle(tmp_path / "other.ewb"), tmp_path / "back.ewb")
    assert came.entry.fingerprint == entry.fingerprint
    assert [one.fingerprint for one in read_bundle(tmp_path / "back.ewb").manifest.engines] == [
        "other",
        entry.fingerprint,
    ]


def test_an_engine_that_fits_is_measured_there_as_it_is(tmp_path: Path) -> None:
    whole = read_bundle(make_bundle(tmp_path / "whole.ewb"))
    (tmp_path / "sent.ewb").write_bytes(sendable(whole))
    sent = read_bundle(tmp_path / "sent.ewb").manifest
    assert sent.engines == whole.manifest.engines
    assert [one.backend for one in sent.pending] == ["onnxruntime"]


def test_a_connection_that_breaks_while_it_measures_is_taken_up_and_nothing_runs_twice(
    ready_lab: Lab, tmp_path: Path
) -> None:
    log = io.StringIO()

    def drop() -> None:
        wait_until(lambda: "device/compile: measuring" in log.getvalue(), what="it measures")
        ready_lab.drop()

    dropping = threading.Thread(target=drop)
    dropping.start()
    came = delivered(ready_lab, pending(tmp_path / "sent.ewb"), tmp_path / "back.ewb", log=log)
    dropping.join(20)
    assert came.accuracy.value == 1.0
    assert ready_lab.accepted == 2
    assert "connected to" in log.getvalue()
    assert log.getvalue().count("compiling the engine") == 1


def test_the_same_journey_through_openssh(openssh: OpenSSH, tmp_path: Path) -> None:
    log = io.StringIO()

    def drop() -> None:
        wait_until(lambda: "device/compile: measuring" in log.getvalue(), what="it measures")
        openssh.drop()

    dropping = threading.Thread(target=drop)
    dropping.start()
    came = delivered(openssh, pending(tmp_path / "sent.ewb"), tmp_path / "back.ewb", wrong=5, log=log)
    dropping.join(20)
    assert came.accuracy.value == 0.9
    assert log.getvalue().count("compiling the engine") == 1
    assert "connected to" in log.getvalue()


def test_a_second_build_goes_on_where_a_lost_one_was(ready_lab: Lab, tmp_path: Path) -> None:
    log = io.StringIO()

    def close() -> None:
        wait_until(lambda: "device/compile: measuring" in log.getvalue(), what="it measures")
        ready_lab.close()

    closing = threading.Thread(target=close)
    closing.start()
    bundle = pending(tmp_path / "sent.ewb")
    with pytest.raises(DeviceLost):
        delivered(ready_lab, bundle, tmp_path / "back.ewb", log=log, waits_s=(0.05,))
    closing.join(20)
    assert not (tmp_path / "back.ewb").exists()
    [folder] = jobs(ready_lab)
    wait_until((folder / "compile" / "status").exists, what="the device goes on alone")
    finished_at = (folder / "finished.ewb").stat().st_mtime_ns
    ready_lab.open()
    again = io.StringIO()
    (tmp_path / "kept").hardlink_to(folder / "finished.ewb")
    assert delivered(ready_lab, bundle, tmp_path / "back.ewb", log=again).accuracy.value == 1.0
    assert "measuring" not in again.getvalue()
    assert (tmp_path / "kept").stat().st_mtime_ns == finished_at


def test_an_engine_with_wrong_outputs_is_refused_in_the_runtimes_words(ready_lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(DeviceFailed, match="DIFFERS from the golden output"):
        delivered(ready_lab, pending(tmp_path / "sent.ewb", off_by=1.0), tmp_path / "back.ewb")
    assert not (tmp_path / "back.ewb").exists()


def test_a_device_that_the_bundle_is_not_for_is_refused(ready_lab: Lab, tmp_path: Path) -> None:
    bundle = pending(tmp_path / "sent.ewb", requires={"machine": "riscv64"})
    with pytest.raises(DeviceUnfit, match="it is for machine riscv64, and this device has"):
        delivered(ready_lab, bundle, tmp_path / "back.ewb")


def test_another_bundle_than_was_sent_is_refused(tmp_path: Path) -> None:
    sent = read_bundle(make_bundle(tmp_path / "sent.ewb"))
    other = read_bundle(make_bundle(tmp_path / "other.ewb", golden=tiny_golden(off_by=1e-5)))
    with pytest.raises(BundleError, match=r"gave back another bundle than it got: golden\.npz differs"):
        finish(sent, bytes(other.data), evaluation(), DeviceAddress("orin-3"), tmp_path / "out.ewb")
    assert not (tmp_path / "out.ewb").exists()


def test_outputs_that_are_not_finite_are_refused() -> None:
    judged = evaluation()
    [chunk] = judged.chunks()
    with pytest.raises(DeviceFailed, match="NaN or infinite on the device"):
        judged.take(chunk, {"y": np.full((SAMPLES, 3), np.nan, np.float32)})


def test_chunks_hold_whole_batches_and_every_sample_once() -> None:
    chunks = list(evaluation().chunks(chunk_bytes=8 * 16 * 2))
    assert [chunk.samples for chunk in chunks] == [16, 16, 16, 2]
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    assert len(np.concatenate(labels)) == SAMPLES


def test_build_finishes_on_the_device_and_prints_what_was_measured_there(built: TinyProject, ready_lab: Lab) -> None:
    finished = built.build("--device", str(ready_lab.address))
    assert finished.code in (0, 1), finished.err  # a busy machine may miss the latency budget
    device = finished.json["device"]
    assert device["address"] == str(ready_lab.address)
    assert device["samples"] == 128
    assert device["latency_ns"]["p50"] > 0
    back = read_bundle(built.root / "dist" / "tiny-cpu.ewb")
    assert back.manifest.accuracy["engine"] == device["accuracy"] == finished.json["accuracy"]["engine"]
    assert "[5/5] device/bring back" in finished.err
    page = back.read("report.html")
    assert "on 128 test samples run on the device" in page.decode()
    assert Path(finished.json["report"]).read_bytes() == page
    assert "## Measured on " in (built.root / "dist" / "tiny-cpu.md").read_text(encoding="utf-8")


def test_an_address_with_a_password_is_wrong_usage_and_is_not_repeated(tiny: TinyProject) -> None:
    refused = tiny.build("--device", "ssh://lab:hunter2@orin-3")
    assert refused.code == 2
    assert "holds a password" in refused.err
    assert "hunter2" not in refused.err
