"""Equalization changes the sizes of channels and nothing that the network computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginewright.graph.equalization import equalized
from enginewright.graph.execution import open_session

FloatArray = npt.NDArray[np.float32]
RANDOM = np.random.default_rng(3)
SIZES = np.array([1e-2, 1.0, 30.0, 0.1, 1.0, 5.0, 1e-1, 2.0], np.float32)


def normal(*shape: int) -> FloatArray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def network(between: str = "Relu", *, second: str = "Conv", twice: bool = False) -> onnx.ModelProto:
    """A convolution whose eight channels differ a thousandfold, then `between`, then a layer that reads them."""
    weights = {"w1": normal(8, 3, 3, 3) * SIZES[:, None, None, None], "b1": normal(8) * SIZES}
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="first")]
    if between == "Clip":
        weights |= {"low": np.float32(0), "high": np.float32(6)}
        nodes.append(helper.make_node("Clip", ["c", "low", "high"], ["a"], name="between"))
    else:
        nodes.append(helper.make_node(between, ["c"], ["a"], name="between"))
    if second == "depthwise":
        weights |= {"w2": normal(8, 1, 3, 3), "b2": normal(8)}
        nodes.append(helper.make_node("Conv", ["a", "w2", "b2"], ["y"], name="second", group=8))
    elif second == "ConvTranspose":
        weights |= {"w2": normal(8, 4, 2, 2)}
        nodes.append(helper.make_node("ConvTranspose", ["a", "w2"], ["y"], name="second", strides=[2, 2]))
    else:
        weights |= {"w2": normal(4, 8, 3, 3), "b2": normal(4)}
        nodes.append(helper.make_node("Conv", ["a", "w2", "b2"], ["y"], name="second"))
    outputs = ["y", "a"] if twice else ["y"]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, list(values.values()), constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto) -> FloatArray:
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    result: FloatArray = open_session(model, threads=1).run(["y"], {"x": image})[0]
    return result


def weight(model: onnx.ModelProto, name: str) -> FloatArray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def spread(model: onnx.ModelProto) -> float:
    sizes = np.abs(weight(model, "w1")).max(axis=(1, 2, 3))
    return float(sizes.max() / sizes.min())


@pytest.mark.parametrize("second", ["Conv", "depthwise", "ConvTranspose"])
def test_channels_are_evened_out_and_the_outputs_stay(second: str) -> None:
    before = network(second=second)
    after = equalized(before)
    assert spread(after) < spread(before) / 20
    np.testing.assert_allclose(run(after), run(before), rtol=1e-4, atol=1e-4 * float(np.abs(run(before)).max()))


def test_both_layers_end_with_channels_of_one_size() -> None:
    after = equalized(network())
    first, second = np.abs(weight(after, "w1")).max(axis=(1, 2, 3)), np.abs(weight(after, "w2")).max(axis=(0, 2, 3))
    np.testing.assert_allclose(first, second, rtol=0.02)


@pytest.mark.parametrize("between", ["Clip", "Sigmoid", "HardSwish"])
def test_nothing_moves_through_what_does_not_scale(between: str) -> None:
    before = network(between)
    assert np.array_equal(weight(equalized(before), "w1"), weight(before, "w1"))


def test_nothing_moves_where_another_reads_the_channels() -> None:
    before = network(twice=True)
    assert np.array_equal(weight(equalized(before), "w1"), weight(before, "w1"))


def test_a_dead_channel_stays_as_it_is() -> None:
    before = network()
    dead = weight(before, "w1").copy()
    dead[2] = 0.0
    next(tensor for tensor in before.graph.initializer if tensor.name == "w1").CopyFrom(
        numpy_helper.from_array(dead, "w1")
    )
    after = equalized(before)
    assert np.isfinite(weight(after, "w2")).all()
    assert np.array_equal(weight(after, "w2")[:, 2], weight(before, "w2")[:, 2])


def test_a_real_network_keeps_its_outputs(residual: onnx.ModelProto) -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    before, after = (
        open_session(item, threads=1).run(None, {"image": image})[0] for item in (residual, equalized(residual))
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * float(np.abs(before).max()))
