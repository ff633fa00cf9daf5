"""Looking at inner tensors changes no network, and holds no more than it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from enginewright.graph import execution
from enginewright.graph.execution import InnerTensors, samples_at_once


def _chain(length: int = 3, batch: int | str = "batch") -> onnx.ModelProto:
    """t0 -> t1 -> ...: each tensor is the one before it plus itself; 256 bytes a sample."""
    nodes = [helper.make_node("Add", [f"t{index}", f"t{index}"], [f"t{index + 1}"]) for index in range(length)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 64]) for name in ("t0", f"t{length}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _runs(inner: InnerTensors, values: np.ndarray) -> list[tuple[str, Any]]:
    return [(tensor, seen) for tensor, (seen,) in inner.run({"t0": values})]


def test_the_network_is_the_same_afterwards() -> None:
    network = _chain()
    before = network.SerializeToString()
    InnerTensors([network], ["t1", "t2"], threads=1)
    assert network.SerializeToString() == before


def test_a_sample_that_holds_too_much_is_looked_at_in_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_MOST_BYTES", 600)  # two tensors
    inner = InnerTensors([_chain(5)], [f"t{index}" for index in range(6)], threads=1)
    assert len(inner._sessions) == 3
    values = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    found = _runs(inner, values)
    assert [tensor for tensor, _ in found] == [f"t{index}" for index in range(6)]
    for index, (_, seen) in enumerate(found):
        np.testing.assert_allclose(seen, values * 2**index, rtol=1e-6)


def test_a_batch_that_holds_too_much_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_LIMIT_BYTES", 600)  # two samples
    values = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    found = _runs(InnerTensors([_chain()], ["t3"], threads=1), values)
    assert [len(seen) for _, seen in found] == [2, 2, 1]
    np.testing.assert_allclose(np.concatenate([seen for _, seen in found]), values * 8, rtol=1e-6)


@pytest.mark.parametrize(("limit", "samples"), [(100, 1), (3 * 256, 1), (4 * 3 * 256, 4), (1 << 20, 16)])
def test_as_many_samples_are_run_at_once_as_their_tensors_leave_room_for(
    limit: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_LIMIT_BYTES", limit)
    assert samples_at_once(_chain(), 16) == samples
