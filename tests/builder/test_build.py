"""The whole path on a small network: what a build gives, what it reuses, and what is left when it goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_project import Finished, TinyProject, Waiter

import enginewright_runtime
from enginewright.store import Store
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.measurement import Measurement

STEPS = [
    "import", "reference/export", "reference/simplify", "reference/compile", "reference/evaluate", "prune", "recover", "export",
    "simplify", "calibrate", "assign_precision", "quantize", "compile", "evaluate", "measure", "pack",
]  # fmt: skip


def statuses(finished: Finished) -> dict[str, str]:
    return {step["name"]: step["status"] for step in finished.json["steps"]}


def test_a_build_gives_a_bundle_that_runs_and_says_what_was_reached(first_build: tuple[TinyProject, Finished]) -> None:
    project, finished = first_build
    content = finished.json
    assert [step["name"] for step in content["steps"]] == STEPS
    assert {step["status"] for step in content["steps"]} == {"built"}
    assert all(len(step["key"]) == 64 for step in content["steps"])
    assert content["accuracy"]["reference"] > 0.95
    assert content["macs"]["engine"] == pytest.approx(0.6 * content["macs"]["reference"], rel=0.05)
    assert content["latency_ns"]["engine"]["p50"] > 0
    with enginewright_runtime.open(content["bundle"]) as session:
        outputs = session.run({"image": np.zeros((1, 3, 16, 16), np.float32)})
    assert outputs["scores"].shape == (1, 4)
    assert (project.root / "dist" / "tiny-cpu.html").stat().st_size > 10_000
    assert "tiny" in (project.root / "dist" / "tiny-cpu.md").read_text()


def test_the_bundle_holds_what_the_design_says(first_build: tuple[TinyProject, Finished]) -> None:
    bundle = read_bundle(Path(first_build[1].json["bundle"]))
    engine = bundle.manifest.engines[0]
    assert bundle.manifest.sequence == 7
    assert {"model.onnx", "golden.npz", "report.html", engine.path} <= set(bundle.manifest.files)
    assert engine.path == f"engines/{engine.fingerprint}/engine"
    assert [step.name for step in bundle.manifest.steps] == STEPS[:-1]
    for name, caches in (("", "warm"), (".evicted", "evicted")):
        data = bundle.read(f"measurements/{engine.fingerprint}{name}.json")
        assert Measurement.from_bytes(data).protocol.caches == caches


def test_a_second_build_reuses_every_step_and_imports_nothing_heavy(built: TinyProject) -> None:
    program = (
        "import sys; from enginewright.cli import main; code = main(['build', 'tiny', '--target', 'cpu', '--json']);"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'torch_pruning', 'onnxsim', 'rich'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr);"
        "sys.exit(code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=built.root,
        env=built.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    finished = Finished(process.returncode, process.stdout, process.stderr)
    assert finished.code == 0, finished.err
    assert set(statuses(finished).values()) == {"reused"}
    assert finished.err.strip() == "[]"


def test_a_moved_project_is_not_rebuilt(built: TinyProject, tmp_path: Path) -> None:
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert set(statuses(TinyProject(moved).build()).values()) == {"reused"}


def test_a_comment_in_the_recipe_packs_anew_and_runs_nothing_else(built: TinyProject) -> None:
    built.edit("tiny.yaml", "metric: top1", "metric: top1 # the share of right answers")
    found = statuses(built.build())
    assert [name for name, status in found.items() if status == "built"] == ["pack"]


def test_plan_and_why_name_the_parameter_that_changed(built: TinyProject) -> None:
    planned = built.run("plan", "tiny", "--target", "cpu", "--set", "macs=0.3", "--json").json["steps"]
    assert {step["name"]: step["status"] for step in planned}["prune"] == "stale"
    assert {step["name"]: step["status"] for step in planned}["recover"] == "waits"
    assert {step["name"]: step["status"] for step in planned}["import"] == "reused"
    told = built.run("why", "tiny", "prune", "--target", "cpu", "--set", "macs=0.3").out
    assert told == "prune:\n  parameter macs changed: 0.4 -> 0.3\n"


def test_why_names_the_file_that_changed_by_digest(built: TinyProject) -> None:
    built.edit("tiny/data.py", "Deterministic by split", "Deterministic, by split")
    told = built.run("why", "tiny", "import", "--target", "cpu").out
    assert told.startswith("import:\n  file code/data.py changed: ")


def test_an_edit_that_changes_no_result_stops_early(built: TinyProject) -> None:
    built.edit("tiny/model.py", "small enough to build", "small enough, to build")
    found = statuses(built.build())
    assert found["import"] == found["reference/export"] == "built"
    assert found["reference/simplify"] == found["compile"] == found["measure"] == "reused"


def test_a_damaged_artifact_is_said_and_rebuilt(built: TinyProject) -> None:
    store = Store(built.root / ".enginewright")
    record = store.record(store.last_build("tiny@cpu")["calibrate"])
    assert record is not None
    path = store.object_path(record.outputs["scales"].digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3])
    finished = built.build()
    assert finished.code == 0
    assert "its scales in the store is damaged" in finished.err
    assert [name for name, status in statuses(finished).items() if status == "built"] == ["calibrate"]


def test_a_lost_delivery_is_delivered_again(built: TinyProject) -> None:
    bundle = built.root / "dist" / "tiny-cpu.ewb"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:100])
    assert built.build().code == 0
    assert bundle.read_bytes() == whole


def wait_until_it_runs(project: TinyProject) -> None:
    """Until the step that began has its staging folder, which it gets before it does anything."""
    for _ in range(10_000):
        if list((project.root / ".enginewright" / "staging").glob("*")):
            return
        time.sleep(0.002)
    pytest.fail("the step has not begun to run")


def test_a_kill_at_any_step_loses_nothing_that_was_finished(tiny: TinyProject, wait_for_line: Waiter) -> None:
    for position, step in enumerate(STEPS, 1):
        process = tiny.start("build", "tiny", "--target", "cpu", "--json")
        wait_for_line(process, f"[{position}/{len(STEPS)}] {step}")
        wait_until_it_runs(tiny)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not list((tiny.root / "dist").glob("*")), "a bundle from half a build"
        process = tiny.start("build", "tiny", "--target", "cpu", "--json")
        wait_for_line(process, f"{step}: built")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finished = tiny.build()
    assert finished.code == 0, finished.err
    assert set(statuses(finished).values()) == {"reused"}


def test_ctrl_c_ends_with_130_and_leaves_no_half_written_file(tiny: TinyProject, wait_for_line: Waiter) -> None:
    process = tiny.start("build", "tiny", "--target", "cpu")
    wait_for_line(process, "reference/export")
    wait_until_it_runs(tiny)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not list((tiny.root / ".enginewright" / "staging").glob("*"))


def test_when_the_build_is_killed_its_step_ends_too(tiny: TinyProject, wait_for_line: Waiter) -> None:
    process = tiny.start("build", "tiny", "--target", "cpu")
    wait_for_line(process, "reference/export")
    wait_until_it_runs(tiny)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    for _ in range(100):
        if not Path(f"/proc/{children[0]}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the step's process goes on after its build was killed")


def test_two_builds_at_once_do_no_step_twice(tiny: TinyProject) -> None:
    both = [tiny.start("build", "tiny", "--target", "cpu", "--json") for _ in range(2)]
    finished = []
    for process in both:
        out, err = process.communicate(timeout=300)
        finished.append(Finished(process.returncode, out, err))
    assert [item.code for item in finished] == [0, 0], finished
    for step in STEPS:
        assert [statuses(item)[step] for item in finished].count("built") == 1, step


def test_gc_keeps_what_the_last_build_uses(built: TinyProject) -> None:
    assert built.run("gc", "--json").json["objects"] == 0
    assert set(statuses(built.build()).values()) == {"reused"}
    (built.root / ".enginewright" / "builds" / "tiny@cpu.json").unlink()
    assert built.run("gc", "--json").json["records"] == len(STEPS)


ONNX_RECIPE = """
recipe: 1
name: bars
model:
  onnx: bars.onnx
  inputs: {image: {shape: [batch, 3, 16, 16], dtype: float32}}
  outputs: [scores]
data: {factory: data:Bars, arguments: {noise: 0.5}}
metric: METRIC
compress: COMPRESS
targets: {cpu: {}}
"""


def add_onnx_recipe(project: TinyProject, *, metric: str, compress: str) -> None:
    """The reference network of the shared build as somebody's ONNX file."""
    store = Store(project.root / ".enginewright")
    record = store.record(store.last_build("tiny@cpu")["reference/simplify"])
    assert record is not None
    folder = project.root / "recipes" / "bars"
    folder.mkdir()
    (folder / "bars.onnx").write_bytes(store.object_path(record.outputs["network"].digest).read_bytes())
    (folder / "data.py").write_text((project.root / "recipes" / "tiny" / "data.py").read_text())
    recipe = ONNX_RECIPE.replace("METRIC", metric).replace("COMPRESS", compress)
    (project.root / "recipes" / "bars.yaml").write_text(recipe)


def test_a_network_that_comes_as_onnx_is_quantized_and_judged_by_fidelity(built: TinyProject) -> None:
    add_onnx_recipe(
        built, metric="fidelity", compress="[quantize: {calibration: {method: minmax, samples: 32}, keep_float: []}]"
    )
    finished = built.build(recipe="bars")
    assert finished.code == 0, finished.err
    content = finished.json
    assert [step["name"] for step in content["steps"]] == [
        "import", "reference/simplify", "reference/compile", "reference/evaluate", "calibrate", "quantize", "compile", "evaluate",
        "measure", "pack",
    ]  # fmt: skip
    assert content["accuracy"]["reference"] == 1.0
    assert content["accuracy"]["engine"] > 0.9
    assert content["size_bytes"]["engine"] < content["size_bytes"]["reference"]


def test_a_frontier_that_was_measured_of_this_float_engine_is_in_the_report(built: TinyProject) -> None:
    store = Store(built.root / ".enginewright")
    record = store.record(store.last_build("tiny@cpu")["reference/compile"])
    assert record is not None
    spread = {"median": 0.5, "low": 0.4, "high": 0.6}
    point = {"label": "int8 alone", "latency_ms": spread, "change": -0.01, "interval": None, "int8": True}
    frontier = {
        "format": 2,
        "protocol": "6 sessions.",
        "reference_sha256": record.outputs["engine"].digest,
        "reference_ms": spread,
        "points": [point],
    }
    path = built.root / "dist" / "tiny-cpu.frontier.json"
    path.write_text(json.dumps(frontier))
    finished = built.build()
    assert [name for name, status in statuses(finished).items() if status == "built"] == ["pack"]
    page = (built.root / "dist" / "tiny-cpu.html").read_text()
    assert "int8 alone" in page
    path.write_text(json.dumps({**frontier, "reference_sha256": "0" * 64}))
    assert "is of another float engine" in built.build().err
    assert "int8 alone" not in (built.root / "dist" / "tiny-cpu.html").read_text()


def test_a_network_may_stay_as_it_is(built: TinyProject) -> None:
    add_onnx_recipe(built, metric="top1", compress="[]")
    finished = built.build(recipe="bars")
    assert finished.code == 0, finished.err
    assert finished.json["accuracy"]["engine"] == finished.json["accuracy"]["reference"]
    assert finished.json["verdict"] == "PASS"


def test_an_onnx_file_that_is_cut_short_is_refused(built: TinyProject) -> None:
    add_onnx_recipe(built, metric="top1", compress="[]")
    path = built.root / "recipes" / "bars" / "bars.onnx"
    path.write_bytes(path.read_bytes()[:500])
    finished = built.build(recipe="bars")
    assert finished.code == 2
    assert "is not a valid ONNX network" in finished.err
