"""Whether a machine is the device that a pending engine is for, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.fake_cuda import H200, ORIN
from tests.runtime.power_modes import board as board
from tests.runtime.tensorrt.conftest import install as install
from tests.runtime.tiny_bundle import tiny_manifest

from enginewright_runtime.backends import backend
from enginewright_runtime.device_needs import Fit, fit, meant_power_mode
from enginewright_runtime.manifest import PendingEngine
from enginewright_runtime.tensorrt.device import Device
from enginewright_runtime.tensorrt.identity import other_model

AGX = {"compute_capability": "8.7", "sm_count": "16", "memory_gb": "64"}
FILE = (
    "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=3 NAME=MODE_50W >\n< PM_CONFIG DEFAULT=2 >\n"
)


def fit_here(needs: Mapping[str, str]) -> Fit:
    chosen = backend("tensorrt")
    return fit(needs, chosen, chosen.requires())


@pytest.mark.parametrize(
    ("gib", "gb", "is_it"),
    [
        (61.4, 64, True),  # an AGX Orin
        (53.5, 64, True),  # its industrial model, whose error correction takes memory
        (29.9, 32, True),
        (29.9, 64, False),
        (61.4, 32, False),
        (15.3, 16, True),
        (7.4, 16, False),
        (22.5, 24, True),  # an A10 with error correction
        (139.8, 141, True),
        (79.1, 141, False),
        (39.4, 80, False),  # an A100 of 40 GB
        (93.1, 80, False),  # an H100 NVL
    ],
)
def test_what_the_firmware_takes_is_no_other_model_and_half_of_the_memory_is(
    gib: float, gb: float, is_it: bool
) -> None:
    said, switched_off = other_model({"memory_gb": f"{gb}"}, replace(ORIN, memory_bytes=int(gib * 2**30)))
    assert (said == "") is is_it
    assert not switched_off
    assert is_it or said == (
        f"it is for a GPU with {gb} GB of memory, and the Orin here has {gib} GiB: it is another model"
    )


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (replace(ORIN, sm_count=8), "it is another model, or its power mode switches SMs off (nvpmodel -q)"),
        (replace(ORIN, sm_count=20), "it is another model"),
        (replace(ORIN, sm_count=8, memory_bytes=30 << 30), "it is another model"),
        (replace(H200, sm_count=8, memory_bytes=64 << 30), "it is another model, or a slice of one (MIG)"),
    ],
)
def test_the_reasons_for_another_number_of_sms_are_those_that_are_possible(device: Device, reason: str) -> None:
    said, _ = other_model(AGX, device)
    assert said.startswith(f"it is for a GPU with 16 SMs and 64 GB of memory, and the {device.name} here has ")
    assert said.endswith(f": {reason}")


def test_figures_that_are_no_numbers_are_no_device() -> None:
    assert other_model({"sm_count": "many"}, ORIN) == ("it is for sm_count 'many', which is no number", False)


def test_a_target_without_figures_fits_every_device_of_its_capability(install: Any) -> None:
    install("10.3.0", on=replace(ORIN, sm_count=3, memory_bytes=1 << 30))
    assert fit_here({"compute_capability": "8.7"}) == Fit()


def test_another_capability_is_told_before_the_gpu_is_looked_at(install: Any) -> None:
    install("10.3.0", on=H200)
    found = fit_here(AGX)
    assert found.differences == ("it is for compute capability 8.7, and this device has 9.0",)
    assert found.hint == "take the bundle to the device that it is for"


def test_sms_that_are_switched_off_are_told_with_the_mode_that_has_them(install: Any, board: Any) -> None:
    install("10.3.0", on=replace(ORIN, sm_count=8))
    board("MODE_30W", FILE)
    found = fit_here({**AGX, "power_mode": "MAXN"})
    assert [said.partition(",")[0] for said in found.differences] == [
        "it is for a GPU with 16 SMs and 64 GB of memory",
        "it is to be measured in the power mode MAXN",
    ]
    assert found.hint.startswith("`sudo nvpmodel -m 0` sets MAXN")
    board("MAXN", FILE)
    found = fit_here({**AGX, "power_mode": "MAXN"})
    assert len(found.differences) == 1
    assert found.hint.startswith("set a power mode that has all SMs, or build for the target that this device is")


@pytest.mark.parametrize(
    ("file", "fix"),
    [
        (FILE, "`sudo nvpmodel -m 3` sets MODE_50W, after a restart if it asks for one"),
        ("", "`sudo nvpmodel -m ID` sets it, with the ID that /etc/nvpmodel.conf has for MODE_50W"),
        (
            "< POWER_MODEL ID=1 NAME=50W >\n",
            "no power mode of this board is called MODE_50W: /etc/nvpmodel.conf has 50W",
        ),
    ],
)
def test_the_command_that_sets_a_mode_has_this_board_s_own_number(
    install: Any, board: Any, file: str, fix: str
) -> None:
    install("10.3.0", on=ORIN)
    board("MAXN", file)
    found = fit_here({"power_mode": "MODE_50W"})
    assert found.differences == ("it is to be measured in the power mode MODE_50W, and MAXN is set",)
    assert found.hint == (
        f"{fix}; `sudo jetson_clocks` then holds the clocks; "
        "to measure in another mode, write a target with that power_mode"
    )


def test_nvpmodel_is_not_asked_where_the_target_names_no_mode(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3.0", on=ORIN)
    monkeypatch.setattr("enginewright_runtime.telemetry.jetson._run", None)
    assert fit_here(AGX) == Fit()


def test_an_engine_of_the_processor_has_no_figures_of_a_gpu() -> None:
    chosen = backend("onnxruntime")
    found = fit({"sm_count": "16"}, chosen, chosen.requires())
    assert found.differences == ("it is for sm count 16, and this device has none",)


def test_a_bundle_tells_the_power_mode_that_its_budgets_are_of() -> None:
    assert meant_power_mode(tiny_manifest()) is None
    waiting = PendingEngine("tensorrt", {}, {"power_mode": "MAXN"})
    assert meant_power_mode(replace(tiny_manifest(), pending=(waiting,))) == "MAXN"
