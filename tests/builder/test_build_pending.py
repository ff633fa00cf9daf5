"""The whole path for devices that are elsewhere: a verified bundle, what was proven here, and nothing that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.gpu.accuracy import accuracy_of, judge_accuracy, share_beyond
from tests.gpu.prepared import prepared_names, read_prepared
from tests.tiny_project import REPOSITORY, Finished, TinyProject, make_project

from enginewright.report import render_html
from enginewright.report.bundle_report import report_of_bundle
from enginewright_runtime.backends.onnx_model import node_names
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.cli import main as runtime
from enginewright_runtime.golden import read_golden
from enginewright_runtime.host import machine
from enginewright_runtime.tensorrt.device import NoDevice, probe
from enginewright_runtime.tensorrt.header import read_header

pytest.importorskip(
    "tensorrt_rtx_bindings",
    reason="needs the wheels tensorrt-rtx-cu13-libs and tensorrt-rtx-cu13-bindings",
    exc_type=ImportError,
)


_SOURCES = (REPOSITORY / "builder", REPOSITORY / "runtime")


def _has_gpu() -> bool:
    try:
        probe()
    except NoDevice:
        return False
    return True


pytestmark = pytest.mark.skipif(_has_gpu(), reason="with a GPU these are built and run here")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """Not pruned: TensorRT has no int8 kernel for fewer than 16 channels."""
    made = make_project(tmp_path_factory.mktemp("pending"))
    recipe = made.root / "recipes" / "tiny.yaml"
    lines = recipe.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("  - prune", "  - recover"))]
    recipe.write_text("".join([*kept, "  orin-dla: {}\n", "  t4: {}\n"]))
    own = made.root / "targets" / "orin-dla.yaml"
    own.parent.mkdir(exist_ok=True)
    text = (REPOSITORY / "targets" / "orin.yaml").read_text()
    own.write_text(text.replace("name: orin\n", "name: orin-dla\ndla_core: 0\n"))
    return made


@pytest.fixture(scope="module")
def orin(project: TinyProject) -> Finished:
    return project.run("build", "tiny", "--target", "orin", "--json")


@pytest.fixture(scope="module")
def ada(project: TinyProject, orin: Finished) -> Finished:
    return project.run("build", "tiny", "--target", "rtx-ada", "--json")


def test_the_verdict_is_pending_and_nothing_is_claimed(orin: Finished) -> None:
    assert orin.code == 0, orin.err
    found = orin.json
    assert found["verdict"] == "PENDING"
    assert {finding["name"]: finding["verdict"] for finding in found["findings"]} == {
        "accuracy_drop": "PASS",
        "latency_p99_ms": "PENDING",
        "size_mib": "PENDING",
    }
    assert found["latency_ns"]["engine"] == {"p50": None, "p99": None}
    assert found["size_bytes"] == {"reference": None, "engine": None}
    assert found["accuracy"]["engine"] > 0.9
    assert found["precision"]["time"] == "modelled"
    assert found["pending"]["command"] == "enginewright-runtime compile tiny-orin.ewb"
    assert "int8 layers" in found["pending"]["checked_by"]
    assert found["pending"]["floor_ns"] > 0


def test_the_bundle_is_whole_and_says_what_is_pending(orin: Finished) -> None:
    bundle = read_bundle(Path(orin.json["bundle"]))
    assert bundle.manifest.engines == ()
    [pending] = bundle.manifest.pending
    assert pending.requires == {
        "machine": "aarch64", "compute_capability": "8.7", "sm_count": "16", "memory_gb": "64", "power_mode": "MAXN",
    }  # fmt: skip
    assert pending.settings["sizes"] == {"batch": [1, 1, 32]}
    assert set(bundle.contents) == {
        "model.onnx", "model.float16.onnx", "unquantized.float16.onnx", "golden.npz", "report.html", "report.json", "floors.json",
        "structure.json", "calibration.cache",
    }  # fmt: skip
    assert not [name for name, _ in node_names(bundle.read("unquantized.float16.onnx")) if "quantize" in name]
    structure = json.loads(bundle.read("structure.json"))
    assert structure["compute_capability"] == "8.6"
    assert structure["not_int8"] == []
    assert len(structure["int8_layers"]) >= 2
    assert "total_floor_ns" in json.loads(bundle.read("floors.json"))
    assert bundle.read("calibration.cache").startswith(b"TRT-100300-EntropyCalibration2\n")
    assert np.isfinite(read_golden(bundle).outputs["scores"]).all()


def test_a_bundle_for_a_dla_has_the_network_without_pairs_and_a_golden_input_of_one(
    project: TinyProject, orin: Finished
) -> None:
    finished = project.run("build", "tiny", "--target", "orin-dla", "--json")
    assert finished.code == 0, finished.err
    bundle = read_bundle(Path(finished.json["bundle"]))
    assert not [name for name, _ in node_names(bundle.read("calibrated.onnx")) if "quantize" in name]
    assert {len(array) for array in read_golden(bundle).inputs.values()} == {1}
    [pending] = bundle.manifest.pending
    assert pending.settings["sizes"] == {"batch": [1, 1, 1]}


def test_the_structure_for_a_turing_card_is_checked_where_tensorrt_rtx_multiplies_integers(
    project: TinyProject, orin: Finished
) -> None:
    finished = project.run("build", "tiny", "--target", "t4", "--json")
    assert finished.code == 0, finished.err
    structure = json.loads(read_bundle(Path(finished.json["bundle"])).read("structure.json"))
    assert structure["compute_capability"] == "8.0"
    assert structure["not_int8"] == []


def test_the_report_shows_floors_as_floors_and_the_command(project: TinyProject, orin: Finished) -> None:
    page = (project.root / "dist" / "tiny-orin.md").read_text()
    assert page.startswith("# tiny on orin: PENDING")
    assert "enginewright-runtime compile tiny-orin.ewb" in page
    assert "Roofline floor (not measured)" in page
    assert "These are floors, and no latencies" in page
    assert "in its power mode MAXN" in page
    assert '<div class="verdict pending">' in (project.root / "dist" / "tiny-orin.html").read_text()


def test_the_report_of_the_bundle_is_the_page_that_it_was_packed_with(orin: Finished) -> None:
    bundle = read_bundle(Path(orin.json["bundle"]))
    assert render_html(report_of_bundle(bundle)).encode() == bundle.read("report.html")


def test_who_requires_a_measurement_gets_4(project: TinyProject, orin: Finished) -> None:
    finished = project.run("build", "tiny", "--target", "orin", "--require-measured")
    assert finished.code == 4
    assert "verdict: PENDING" in finished.out
    assert "on the device: enginewright-runtime compile tiny-orin.ewb" in finished.out
    assert "roofline floor of all layers, not measured" in finished.out


def test_a_second_build_reuses_everything(project: TinyProject, orin: Finished) -> None:
    again = project.run("build", "tiny", "--target", "orin", "--json")
    assert {step["status"] for step in again.json["steps"]} == {"reused"}


def test_it_is_refused_here_with_the_reason_and_the_command(orin: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    path = orin.json["bundle"]
    assert runtime(["run", path]) == 4
    assert "fix: on its device: enginewright-runtime compile BUNDLE" in capsys.readouterr().err
    assert runtime(["compile", path]) == 4
    reason = (
        "TensorRT is not installed"
        if machine() == "aarch64"
        else f"it is for machine aarch64, and this device has {machine()}"
    )
    assert reason in capsys.readouterr().err
    assert runtime(["verify", path]) == 0


def test_an_rtx_engine_is_built_here_packed_and_not_run(ada: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert ada.code == 0, ada.err
    found = ada.json
    assert found["verdict"] == "PENDING"
    assert {finding["name"]: finding["verdict"] for finding in found["findings"]}["size_mib"] == "PASS"
    bundle = read_bundle(Path(found["bundle"]))
    [entry] = bundle.manifest.engines
    header = read_header(bundle.read(entry.path))
    assert header.kind.name == "tensorrt_rtx"
    assert header.made_by(entry.requires["tensorrt_rtx"])
    assert runtime(["run", found["bundle"]]) == 4
    why = "it needs an NVIDIA GPU of compute capability 8.9, and there is no NVIDIA driver here"
    assert why in capsys.readouterr().err
    assert runtime(["compile", found["bundle"]]) == 4
    assert why in capsys.readouterr().err


def test_both_devices_share_what_does_not_depend_on_them(orin: Finished, ada: Finished) -> None:
    keys = {step["name"]: step["key"] for step in orin.json["steps"]}
    same = [step["name"] for step in ada.json["steps"] if keys.get(step["name"]) == step["key"]]
    assert {"import", "reference/evaluate", "calibrate"} <= set(same)


@pytest.fixture(scope="module")
def carried(project: TinyProject, orin: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests on the device get of the recipe (tests/gpu/prepare.py)."""
    folder = tmp_path_factory.mktemp("carried")
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.prepare", folder, "tiny", "--target", "orin", "--mib", "0.01"],
        cwd=project.root,
        env=project.environment({"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, *_SOURCES)))}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny: ")
    return folder


def test_what_is_carried_to_a_device_is_the_bundle_and_what_was_said_of_its_samples(
    orin: Finished, carried: Path
) -> None:
    assert prepared_names(carried) == ("tiny",)
    prepared = read_prepared(carried, "tiny")
    assert prepared.bundle.sha256 == read_bundle(Path(orin.json["bundle"])).sha256
    samples = prepared.samples
    assert len(samples) == 128
    # All test samples are carried, so the accuracy is that of the build; they are rounded to float16 on the way.
    assert prepared.accuracy["reference"] == pytest.approx(orin.json["accuracy"]["reference"], abs=0.02)
    for side, outputs in (("reference", samples.reference), ("twin", samples.twin)):
        assert accuracy_of(prepared.metric, outputs, samples) == prepared.accuracy[side]
    judged = judge_accuracy(prepared, samples.twin)
    assert judged.drop == pytest.approx(prepared.accuracy["reference"] - prepared.accuracy["twin"])
    assert judged.within
    assert share_beyond(samples.twin, samples.twin, read_golden(prepared.bundle).tolerances) == 0


def test_a_target_that_no_recipe_lists_is_told(project: TinyProject, orin: Finished, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.prepare", tmp_path, "--target", "xavier"],
        cwd=project.root,
        env=project.environment({"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, *_SOURCES)))}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no recipe lists the target xavier" in done.stderr
    assert not list(tmp_path.iterdir())
