"""`enginewright build` on the device itself: what goes wrong with TensorRT there is told, and nothing finished is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.fake_cuda import H200
from tests.fake_device import FakeDevice, until
from tests.tiny_project import Finished, TinyProject, make_project

from enginewright_runtime.host import machine

pytestmark = pytest.mark.skipif(machine() != "x86_64", reason="the target h200 is in a computer of x86-64")


@dataclass(frozen=True)
class Workstation:
    """A project on a computer with an H200 and a TensorRT."""

    project: TinyProject
    device: FakeDevice

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "enginewright", *arguments],
            cwd=self.project.root,
            env=self.device.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> Finished:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return Finished(process.returncode, out, err)

    def statuses(self) -> list[str]:
        """Of the first four steps, of which the fourth is the first that compiles an engine."""
        planned = self.run("plan", "tiny", "--target", "h200", "--json").json
        return [step["status"] for step in planned["steps"][:4]]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    """The tests share what is built before the first engine."""
    folder = tmp_path_factory.mktemp("station")
    project = make_project(folder / "project")
    recipe = project.root / "recipes" / "tiny.yaml"
    lines = recipe.read_text().splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith(("  - prune", "  - recover")))
    recipe.write_text(kept.replace("targets:\n", "targets:\n  h200: {}\n"))
    return Workstation(project, FakeDevice(folder / "device"))


FAILS: dict[str, tuple[dict[str, object], str]] = {
    "out of memory": (
        {"fails": ["build"], "says": ["Error Code 1: Cuda Runtime (out of memory)"]},
        "error: step 'reference/compile': TensorRT 10.3.0 could not build the engine; it says:\n"
        "  Error Code 1: Cuda Runtime (out of memory)\n"
        "  fix: lower workspace_mib of the target (not set now, so the builder may take the GPU's whole memory) and build "
        "the bundle again, or end what else uses the GPU's memory\n",
    ),
    "an operator that the parser lacks": (
        {"rejects": ["Conv"], "rejecting": "No importer registered for op: Conv"},
        "  fix: this version lacks that operator, and plugins are not loaded: write the network with other operators\n",
    ),
    "a driver that is too old": (
        {"fails": ["builder"], "warns": ["CUDA initialization failure with error: 35"]},
        "error: step 'reference/compile': TensorRT 10.3.0 could not create its builder; it says:\n"
        "  CUDA initialization failure with error: 35\n"
        "  fix: the driver is older than this TensorRT wants (it knows CUDA 13.0 at the most): update it, or install a "
        "TensorRT for its CUDA\n",
    ),
}


@pytest.mark.parametrize("name", FAILS)
def test_an_engine_that_cannot_be_built_is_told_and_the_steps_before_it_stay(name: str, station: Workstation) -> None:
    behaviour, told = FAILS[name]
    station.device.set(**behaviour)
    ran = station.run("build", "tiny", "--target", "h200")
    assert ran.code == 2, ran.err
    assert told in ran.err
    assert "Traceback" not in ran.err
    assert station.statuses() == ["reused", "reused", "reused", "stale"]
    assert not list((station.project.root / "dist").glob("*.ewb"))
    assert station.device.processes() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_build_that_is_ended_while_tensorrt_builds_loses_nothing_that_was_finished(
    station: Workstation, number: signal.Signals, code: int
) -> None:
    mark = station.device.folder / f"building-{number.name}"
    station.device.set(blocks=str(mark))
    process = station.start("build", "tiny", "--target", "h200")
    until(mark.exists)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as the terminal does
    else:
        process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    until(lambda: station.device.processes() == [])
    assert station.statuses() == ["reused", "reused", "reused", "stale"]
    assert not (station.device.folder / "cache").exists()


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            {
                "gpu": replace(H200, driver_cuda="12.2"),
                "version": "10.13.3",
                "distributions": ("tensorrt", "tensorrt-cu13"),
            },
            "pending: the NVIDIA driver is too old: it knows CUDA 12.2 at the most, and TensorRT 10.13.3 (tensorrt-cu13) was "
            "made for CUDA 13",
        ),
        ({"driver": False}, "pending: there is no NVIDIA driver here"),
        ({"cu_init": 100}, "pending: the NVIDIA driver finds no GPU (cuInit gives 100)"),
        ({"distributions": ()}, "pending: TensorRT is not installed"),
        ({}, "build and run"),
    ],
)
def test_targets_says_what_this_computer_lacks_for_one(
    station: Workstation, tmp_path: Path, made: dict[str, object], why: str
) -> None:
    device = FakeDevice(tmp_path / "device", **made)  # type: ignore[arg-type]
    ran = replace(station, device=device).run("targets")
    assert ran.code == 0, ran.err
    assert why in " ".join(ran.out.split())
