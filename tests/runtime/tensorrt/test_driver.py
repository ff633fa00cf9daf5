"""A driver that is older than the installed TensorRT wants is told before anything is built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fake_cuda import H200
from tests.runtime.tiny_bundle import tiny_model

from enginewright_runtime.backends import backend
from enginewright_runtime.tensorrt.device import NoDevice

OLD = replace(H200, driver_cuda="12.2")
MADE_FOR_13 = {"tensorrt-cu13": "10.13.3"}


def test_the_drivers_cuda_and_the_one_that_is_wanted_are_named(install: Any) -> None:
    install("10.13.3", on=OLD, distributions=MADE_FOR_13)
    with pytest.raises(NoDevice) as caught:
        backend("tensorrt").compile(tiny_model(), {"sizes": {"batch": [1, 1, 8]}})
    assert str(caught.value) == (
        "the NVIDIA driver is too old: it knows CUDA 12.2 at the most, and TensorRT 10.13.3 (tensorrt-cu13) was made for "
        "CUDA 13\n"
        "  fix: update the driver to one that knows CUDA 13, or install a TensorRT for CUDA 12"
    )


def test_it_is_a_reason_why_an_engine_does_not_run_here(install: Any) -> None:
    install("10.13.3", on=H200)
    requires = backend("tensorrt").requires()
    install("10.13.3", on=OLD, distributions=MADE_FOR_13)
    assert (
        backend("tensorrt")
        .misfit(requires)
        .startswith(
            "it needs an NVIDIA GPU of compute capability 9.0, and the NVIDIA driver is too old: it knows CUDA 12.2"
        )
    )


@pytest.mark.parametrize(
    ("driver_cuda", "distributions"),
    [
        ("12.2", {"tensorrt-cu12": "10.13.3"}),  # a driver of any release of CUDA 12 runs what was made for one of them
        ("13.0", {"tensorrt-cu12": "10.13.3"}),
        ("12.6", {"tensorrt-cu12": "10.13.3", "tensorrt-cu13": "10.13.3"}),  # which of them is imported, nothing tells
        ("12.6", {}),  # from JetPack: its name tells nothing
    ],
)
def test_a_driver_that_is_new_enough_or_of_which_nothing_is_known_is_no_reason(
    install: Any, driver_cuda: str, distributions: dict[str, str]
) -> None:
    install("10.13.3", on=replace(H200, driver_cuda=driver_cuda), distributions=distributions)
    assert backend("tensorrt").requires()["compute_capability"] == "9.0"
