"""The backend `tensorrt_rtx` with the real library: it builds without a GPU, and refuses to run without one."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper
from tests.runtime.tiny_bundle import tiny_model

from enginewright_runtime.backends import backend
from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt.device import NoDevice, probe
from enginewright_runtime.tensorrt.engine_layers import layers_from_log
from enginewright_runtime.tensorrt.header import read_header

pytest.importorskip(
    "tensorrt_rtx_bindings",
    reason="needs the wheels tensorrt-rtx-cu13-libs and tensorrt-rtx-cu13-bindings",
    exc_type=ImportError,
)
ADA: dict[str, Any] = {"compute_capability": "8.9", "sizes": {"batch": [1, 1, 4]}}
RTX: Any = backend("tensorrt_rtx")


def without_a_gpu() -> bool:
    try:
        probe()
    except NoDevice:
        return True
    return False


def test_it_builds_an_engine_whose_header_tells_its_version() -> None:
    told: list[str] = []
    built = RTX.build(tiny_model(), ADA, on_phase=lambda name, done, total: told.append(name))
    needs = RTX.requires(ADA)
    assert needs["compute_capability"] == "8.9"
    assert read_header(built.engine).made_by(needs["tensorrt_rtx"])
    assert RTX.fingerprint(needs) == f"tensorrt-rtx-{needs['tensorrt_rtx']}-sm89-{needs['machine']}"
    assert "Building engine" in told
    assert {name for layer in layers_from_log(line for _, line in built.log) for name in layer.nodes}


@pytest.mark.skipif(not without_a_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_what_the_engine_needs_and_does_not_run_it() -> None:
    engine = RTX.compile(tiny_model(), ADA)
    assert RTX.misfit(RTX.requires(ADA)).startswith("it needs an NVIDIA GPU of compute capability 8.9, and ")
    with pytest.raises(NoDevice):
        RTX.open(engine, ADA)


def test_an_operator_that_the_parser_lacks_is_told_with_its_node() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"], name="quantizes"),
        helper.make_node("Wobble", ["a"], ["y"], name="wobbles"),
    ]
    graph = helper.make_graph(
        nodes,
        "wrong",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    with pytest.raises(EngineError, match=r"quantizes \(DynamicQuantizeLinear\)(.|\n)*wobbles \(Wobble\)"):
        RTX.compile(model, ADA)


def test_a_compute_capability_that_it_cannot_build_for_is_refused_by_name() -> None:
    with pytest.raises(EngineError, match=r"has no ComputeCapability\.SM90"):
        RTX.compile(tiny_model(), {**ADA, "compute_capability": "9.0"})
