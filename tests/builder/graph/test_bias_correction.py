"""After bias correction the int8 layers give the float network's means, and nothing but biases has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.builder.graph.small_networks import conv, conv_constants, inputs, network

from enginewright.errors import DataError
from enginewright.graph.bias_correction import bias_corrected
from enginewright.graph.dialects import DIALECTS, Dialect
from enginewright.graph.execution import InnerTensors
from enginewright.graph.fidelity import signal_to_noise
from enginewright.graph.integer_layers import IntegerLayers
from enginewright.graph.lint import faults, lint
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright.graph.topology import read_anywhere

_EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
_NETWORKS = ("residual", "decoder", "tokens")

Batch = Mapping[str, np.ndarray]


def _quantized(model: onnx.ModelProto, dialect: Dialect, *, keep_float: tuple[str, ...] = ()) -> onnx.ModelProto:
    scales = calibrate(model, tensors_to_calibrate(model), [_positive(model, 0)], method="minmax")
    return quantize(model, scales, dialect, keep_float=keep_float)


def _positive(model: onnx.ModelProto, seed: int) -> Batch:
    """Inputs with a mean: what rounding does to a weight then shifts the layer's output."""
    return {name: np.abs(values) for name, values in inputs(model, samples=16, seed=seed).items()}


def _batches(model: onnx.ModelProto) -> Iterator[Batch]:
    return iter([_positive(model, 0), _positive(model, 1)])


def _shifts(model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """For each int8 layer: the largest difference of a channel's mean to the float network's, and one step of its
    bias.
    """
    layers = IntegerLayers(quantized).all()
    made = {node.name: node for node in model.graph.node}
    result = {}
    for layer in layers:
        axis = 1 if made[layer.name].op_type.startswith("Conv") else -1
        totals = []
        for owner, tensor in ((model, made[layer.name].output[0]), (quantized, layer.output)):
            inner = InnerTensors([owner], [tensor], threads=1)
            values = np.concatenate([found for batch in _batches(model) for _, (found,) in inner.run(batch)])
            totals.append(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).mean(axis=1))
        result[layer.name] = float(np.abs(totals[0] - totals[1]).max())
    return result


@_EVERY
@pytest.mark.parametrize("name", _NETWORKS)
def test_every_layer_gives_the_means_of_the_float_network(
    name: str, dialect: Dialect, request: pytest.FixtureRequest
) -> None:
    from enginewright.graph.normal_form import normal_form

    model = normal_form(request.getfixturevalue(name))
    quantized = _quantized(model, dialect)
    corrected = bias_corrected(model, quantized, lambda: _batches(model))
    before, after = _shifts(model, quantized), _shifts(model, corrected)
    assert sum(after.values()) < sum(before.values()) / 20
    assert lint(corrected, dialect) == lint(quantized, dialect)
    onnx.checker.check_model(corrected, full_check=True)


@_EVERY
def test_nothing_but_biases_changes(dialect: Dialect, residual: onnx.ModelProto) -> None:
    quantized = _quantized(residual, dialect)
    before = quantized.SerializeToString(deterministic=True)
    corrected = bias_corrected(residual, quantized, lambda: _batches(residual))
    assert quantized.SerializeToString(deterministic=True) == before
    old, new = ({tensor.name: tensor for tensor in model.graph.initializer} for model in (quantized, corrected))
    biases = {node.input[2] for node in quantized.graph.node if node.op_type in ("Conv", "Gemm")}
    integers = {node.input[0] for node in quantized.graph.node if node.output[0] in biases}
    changed = {name for name, tensor in old.items() if name in new and new[name] != tensor}
    added = set(new) - set(old)
    assert changed if dialect.bias == "int32" else added
    assert changed <= integers
    assert all(name.endswith("/bias/float") for name in added)
    assert set(old) - set(new) <= biases
    assert set(new) <= set(read_anywhere(corrected.graph))  # the old ones are gone
    assert [node.op_type for node in corrected.graph.node] == [node.op_type for node in quantized.graph.node]


def test_layers_that_stay_float_keep_their_bias(residual: onnx.ModelProto) -> None:
    quantized = _quantized(residual, DIALECTS["tensorrt"], keep_float=("keep.conv2",))
    corrected = bias_corrected(residual, quantized, lambda: _batches(residual))
    kept = next(node for node in quantized.graph.node if "keep.conv2.weight" in node.input)
    assert kept in corrected.graph.node


def test_a_bias_that_two_layers_share_is_corrected_for_each(residual: onnx.ModelProto) -> None:
    nodes = [conv("a", "x", "h"), helper.make_node("Relu", ["h"], ["r"], name="relu"), conv("b", "r", "y")]
    nodes[2].input[2] = "a.bias"
    constants = {**conv_constants("a", 16, 16), "b.weight": conv_constants("b", 16, 16, seed=1)["b.weight"]}
    model = network(nodes, constants)
    quantized = _quantized(model, DIALECTS["tensorrt"])
    corrected = bias_corrected(model, quantized, lambda: _batches(model))
    assert max(_shifts(model, corrected).values()) < 1e-5 < max(_shifts(model, quantized).values())
    biases = [layer.bias for layer in IntegerLayers(corrected).all()]
    assert not np.array_equal(*biases)


def test_a_layer_without_bias_stays_as_it_is(residual: onnx.ModelProto) -> None:
    constants = conv_constants("a", 16, 16)
    del constants["a.bias"]
    node = helper.make_node("Conv", ["x", "a.weight"], ["y"], name="a", pads=[1] * 4)
    model = network([node], constants)
    for dialect in DIALECTS.values():
        quantized = _quantized(model, dialect)
        assert bias_corrected(model, quantized, lambda: _batches(model)) == quantized


@_EVERY
def test_clipped_ranges_shift_the_outputs_and_correction_takes_that_back(
    dialect: Dialect, residual: onnx.ModelProto
) -> None:
    """What cutting takes away upstream is seen by the layers behind it, since they are corrected in graph order."""
    scales = calibrate(residual, tensors_to_calibrate(residual), [_positive(residual, 0)], method="minmax")
    cut = type(scales)(
        "cut", 16, {name: type(range_)(range_.low / 2, range_.high / 2) for name, range_ in scales.ranges.items()}
    )
    quantized = quantize(residual, cut, dialect)
    corrected = bias_corrected(residual, quantized, lambda: _batches(residual))
    unseen = [_positive(residual, 7)]
    before, after = (signal_to_noise(residual, model, unseen)["result"] for model in (quantized, corrected))
    assert after > before + 3.0


def test_it_runs_over_the_float_network_once_and_over_the_quantized_one_once_a_layer(residual: onnx.ModelProto) -> None:
    quantized = _quantized(residual, DIALECTS["onnxruntime-x86"])
    asked: list[int] = []
    told: list[tuple[int, int]] = []

    def batches() -> Iterator[Batch]:
        asked.append(1)
        return _batches(residual)

    bias_corrected(residual, quantized, batches, on_layer=lambda done, total: told.append((done, total)))
    number = len(IntegerLayers(quantized).all())
    assert len(asked) == 1 + number
    assert told == [(done + 1, number) for done in range(number)]


def test_a_bias_beyond_int32_is_cut_and_does_not_wrap() -> None:
    model = network([conv("a", "x", "y")], conv_constants("a", 16, 16))
    layers = IntegerLayers(_quantized(model, DIALECTS["onnxruntime-x86"]))
    layer = layers.all()[0]
    assert layer.bias is not None
    layers.set_bias(layer, np.full_like(layer.bias, 1e30))
    bias = layers.all()[0].bias
    assert bias is not None
    assert (bias > 0).all()


def test_no_sample_is_an_error(residual: onnx.ModelProto) -> None:
    with pytest.raises(DataError, match="not a single sample"):
        bias_corrected(residual, _quantized(residual, DIALECTS["tensorrt"]), lambda: iter(()))


def test_the_promises_of_quantize_hold_after_it(residual: onnx.ModelProto) -> None:
    for dialect in DIALECTS.values():
        corrected = bias_corrected(residual, _quantized(residual, dialect), lambda: _batches(residual))
        assert faults(corrected, dialect) == ()
        for tensor in corrected.graph.initializer:
            assert np.isfinite(numpy_helper.to_array(tensor)).all()
