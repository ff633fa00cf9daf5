"""The GPU in the fingerprint of a measurement: there where an engine runs on it, and not looked for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fake_cuda import H200, ORIN
from tests.runtime.power_modes import board as board
from tests.runtime.telemetry.device_trees import device_tree
from tests.runtime.telemetry.fake_nvml import Nvml

from enginewright_runtime import gpu
from enginewright_runtime.gpu import fingerprint_for, watched_gpu
from enginewright_runtime.host import fingerprint
from enginewright_runtime.telemetry import nvml
from enginewright_runtime.telemetry.jetson import JetsonGpu
from enginewright_runtime.tensorrt.device import Device, NoDevice


def put(monkeypatch: pytest.MonkeyPatch, found: Device | None) -> None:
    """The GPU of this machine."""

    def probe() -> Device:
        if found is None:
            raise NoDevice("there is no NVIDIA driver here")
        return found

    monkeypatch.setattr("enginewright_runtime.backends.tensorrt.probe", probe)


@pytest.mark.parametrize("backends", [(), ("onnxruntime",), ("onnxruntime", "openvino")])
def test_engines_of_the_processor_ask_nothing(monkeypatch: pytest.MonkeyPatch, backends: tuple[str, ...]) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr("enginewright_runtime.backends.tensorrt.probe", None)
    assert fingerprint_for(backends) == fingerprint()
    assert watched_gpu(backends) is None


def test_on_a_jetson_it_says_the_model_and_the_power_mode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, board: Any
) -> None:
    put(monkeypatch, ORIN)
    board("MODE_50W")
    monkeypatch.setattr(gpu, "_ROOT", device_tree("orin-jetpack6", tmp_path))
    found = fingerprint_for(["onnxruntime", "tensorrt"])
    assert found == {
        **fingerprint(),
        "gpu": {
            "name": "Orin",
            "compute_capability": "8.7",
            "sm_count": 16,
            "memory_mib": 65536,
            "driver_cuda": "12.6",
            "power_mode": "MODE_50W",
            "clock_held": None,
        },
    }
    assert isinstance(watched_gpu(["tensorrt"]), JetsonGpu)


def test_in_a_data_center_it_says_what_was_set_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, Device(H200.name, "9.0", 132, 141 << 30, False, "13.0", "0000:65:00.0"))
    monkeypatch.setattr(nvml.NvmlGpu.__init__, "__defaults__", (Nvml(),))
    there = fingerprint_for(["tensorrt"])["gpu"]
    assert isinstance(there, dict)
    assert (there["name"], there["sm_count"], there["persistence_mode"]) == ("NVIDIA H200", 132, True)
    assert "power_mode" not in there


def test_a_gpu_without_nvml_is_told_without_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, H200)
    monkeypatch.setattr(nvml.NvmlGpu.__init__, "__defaults__", (Nvml(status=9),))
    assert list(fingerprint_for(["tensorrt"])["gpu"]) == [  # type: ignore[arg-type] # a mapping, or the test fails
        "name",
        "compute_capability",
        "sm_count",
        "memory_mib",
        "driver_cuda",
    ]
    assert watched_gpu(["tensorrt"]) is None


def test_without_a_gpu_the_fingerprint_is_none_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, None)
    assert fingerprint_for(["tensorrt"]) == {**fingerprint(), "gpu": None}
