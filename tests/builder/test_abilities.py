"""What this computer can do for a target, said before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.runtime.power_modes import board as board

from enginewright.abilities import Ability, ability
from enginewright.errors import StepFailed
from enginewright.hosts import host_facts, refuse_another_host
from enginewright.target import Target, catalogue, load_target
from enginewright_runtime.errors import BackendMissing
from enginewright_runtime.host import machine
from enginewright_runtime.tensorrt.device import Device

ORIN = replace(load_target("orin", catalogue(None)), machine=None)
FOUND = Device("Orin", "8.7", 16, 64 << 30, integrated=True, driver_cuda="12.6")


@pytest.fixture
def on_an_orin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginewright_runtime.backends.tensorrt.probe", lambda: FOUND)
    monkeypatch.setattr("enginewright_runtime.backends.tensorrt.installed_version", lambda name: "10.3.0")


def test_the_processor_of_this_computer_builds_and_runs() -> None:
    assert ability(load_target("cpu", catalogue(None))).words == "build and run"


def test_an_engine_for_another_processor_is_pending() -> None:
    other = "x86_64" if machine() == "aarch64" else "aarch64"
    target = Target(target=1, name="far", backend="onnxruntime", build="device", machine=other)
    assert ability(target).words == f"pending: this computer is {machine()}, and its engine is compiled on {other}"


def test_an_engine_for_a_processor_like_this_one_is_built_here() -> None:
    target = Target(target=1, name="near", backend="onnxruntime", build="device", machine=machine())
    assert (ability(target).builds, ability(target).runs) == (True, True)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise BackendMissing("TensorRT is not installed")

    monkeypatch.setattr("enginewright_runtime.backends.tensorrt.installed_version", missing)
    assert ability(ORIN) == Ability(False, False, "TensorRT is not installed")


@pytest.mark.usefixtures("on_an_orin")
def test_on_the_device_itself_the_engine_is_built_and_run() -> None:
    found = ability(ORIN)
    assert found.words == "build and run"
    assert found.requires is not None
    assert found.requires["compute_capability"] == "8.7"


@pytest.mark.usefixtures("on_an_orin")
def test_another_version_than_the_pinned_one_is_named() -> None:
    found = ability(replace(ORIN, tensorrt="10.13"))
    assert found.words == "pending: TensorRT 10.3.0 is here, and the target has 10.13"


@pytest.mark.usefixtures("on_an_orin")
def test_another_compute_capability_is_named() -> None:
    thor = replace(ORIN, compute_capability="11.0")
    assert ability(thor).words == "pending: compute capability 8.7 is here, and the target has 11.0"


@pytest.mark.usefixtures("on_an_orin")
def test_another_model_of_the_same_capability_is_named() -> None:
    found = ability(replace(ORIN, sm_count=8, memory_gb=16))
    assert found.words == (
        "pending: it is for a GPU with 8 SMs and 16 GB of memory, and the Orin here has 16 and 64.0 GiB: "
        "it is another model"
    )


@pytest.mark.usefixtures("on_an_orin")
def test_in_another_power_mode_it_is_pending(board: Callable[..., None]) -> None:
    board("MODE_30W")
    found = ability(ORIN)
    assert found.words == "pending: it is to be measured in the power mode MAXN, and MODE_30W is set"


@pytest.mark.usefixtures("on_an_orin")
def test_what_was_planned_in_one_power_mode_is_not_measured_in_another(board: Callable[..., None]) -> None:
    board("MAXN")
    planned = host_facts(ORIN).fingerprint
    refuse_another_host(planned, "tensorrt")
    with pytest.raises(StepFailed, match="planned on another host"):
        refuse_another_host(planned, "onnxruntime")
    board("MODE_30W")
    with pytest.raises(StepFailed, match="planned on another host"):
        refuse_another_host(planned, "tensorrt")


def test_a_build_for_the_processor_knows_nothing_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginewright_runtime.backends.tensorrt.probe", None)
    refuse_another_host(host_facts(load_target("cpu", catalogue(None))).fingerprint, "onnxruntime")
