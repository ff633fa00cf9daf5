from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from tests.builder.graph.small_networks import array, conv, conv_constants, decibels, inputs, network

from enginewright.errors import DataError
from enginewright.graph.dialects import DIALECTS, Dialect
from enginewright.graph.execution import open_session
from enginewright.graph.layers import layers
from enginewright.graph.lint import faults, lint
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import METHODS, Scales, calibrate

_EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
_NETWORKS = ("residual", "decoder", "tokens")


def _scales(model: onnx.ModelProto, *, method: str = "minmax") -> Scales:
    return calibrate(model, tensors_to_calibrate(model), [inputs(model)], method=method)


def _run(model: onnx.ModelProto, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    return open_session(model, threads=1).run(None, batch)


@pytest.fixture(scope="session")
def scales(request: pytest.FixtureRequest) -> dict[str, Scales]:
    return {name: _scales(request.getfixturevalue(name)) for name in _NETWORKS}


@_EVERY
@pytest.mark.parametrize("name", _NETWORKS)
def test_one_set_of_scales_serves_every_dialect_and_the_outputs_stay_close(
    name: str, dialect: Dialect, request: pytest.FixtureRequest, scales: dict[str, Scales]
) -> None:
    model = request.getfixturevalue(name)
    quantized = quantize(model, scales[name], dialect)
    batch = inputs(model, samples=32, seed=1)
    (expected,), (actual,) = _run(model, batch), _run(quantized, batch)
    assert decibels(expected, actual) > 30.0
    assert any(layer.precision == "int8" for layer in layers(quantized))
    assert lint(quantized, dialect) == ()


@_EVERY
@pytest.mark.parametrize("name", _NETWORKS)
def test_the_emitted_integers_are_those_of_the_dialect(
    name: str, dialect: Dialect, request: pytest.FixtureRequest, scales: dict[str, Scales]
) -> None:
    """On the initialisers themselves: other tools were seen to drop the wish for 7 bits without a word."""
    quantized = quantize(request.getfixturevalue(name), scales[name], dialect)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    pairs = [node for node in quantized.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    reached = 0
    for node in pairs:
        scale, zero_point = constants[node.input[1]], constants[node.input[2]]
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        assert np.isfinite(scale).all()
        if "/weight/" in node.name:
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
        elif "/bias/" not in node.name:
            assert zero_point.dtype == dialect.activation
            assert zero_point.shape == scale.shape == ()
            assert not (dialect.symmetric and zero_point.any())
    for key, value in constants.items():
        if key.endswith("/weight/quantized"):
            assert dialect.weights_as == "int8"
            reached = max(reached, int(np.abs(value.astype(int)).max()))
        elif key.endswith("/weight/float"):
            assert dialect.weights_as == "float32"
            node = next(node for node in pairs if node.input[0] == key)
            axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
            scale = constants[node.input[1]].reshape([-1 if index == axis else 1 for index in range(value.ndim)])
            reached = max(reached, int(np.abs(np.rint(value / scale)).max()))
        elif key.endswith("/bias/quantized"):
            assert value.dtype == np.int32
            assert dialect.bias == "int32"
    assert reached == dialect.weight_limit


@_EVERY
@pytest.mark.parametrize("name", _NETWORKS)
def test_inputs_outputs_and_tensor_names_are_kept(
    name: str, dialect: Dialect, request: pytest.FixtureRequest, scales: dict[str, Scales]
) -> None:
    model = request.getfixturevalue(name)
    quantized = quantize(model, scales[name], dialect)
    assert list(quantized.graph.input) == list(model.graph.input)
    assert list(quantized.graph.output) == list(model.graph.output)
    made = {output for node in quantized.graph.node for output in node.output}
    assert set(tensors_to_calibrate(model)) - {"image", "tokens"} <= made
    onnx.checker.check_model(quantized, full_check=True)


@_EVERY
def test_the_given_network_is_not_touched(
    dialect: Dialect, residual: onnx.ModelProto, scales: dict[str, Scales]
) -> None:
    before = residual.SerializeToString(deterministic=True)
    quantize(residual, scales["residual"], dialect)
    assert residual.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("method", METHODS)
def test_every_calibration_method_leads_to_a_usable_network(method: str, residual: onnx.ModelProto) -> None:
    quantized = quantize(residual, _scales(residual, method=method), DIALECTS["onnxruntime-x86-vnni"])
    batch = inputs(residual, samples=32, seed=1)
    assert decibels(_run(residual, batch)[0], _run(quantized, batch)[0]) > 25.0


@_EVERY
def test_joined_tensors_and_a_pool_that_moves_their_values_share_one_scale(dialect: Dialect) -> None:
    nodes = [
        *(conv("a", "x", "p"), helper.make_node("Relu", ["p"], ["a"], name="relu a")),
        helper.make_node("MaxPool", ["a"], ["m"], name="pool", kernel_shape=[3, 3], pads=[1] * 4),
        *(conv("b", "a", "q"), helper.make_node("Relu", ["q"], ["b"], name="relu b")),
        *(conv("c", "m", "r"), helper.make_node("Relu", ["r"], ["c"], name="relu c")),
        helper.make_node("Concat", ["a", "b", "c"], ["j"], name="join", axis=1),
        conv("d", "j", "y"),
    ]
    constants = {name: value for key in "abc" for name, value in conv_constants(key, 16, 16, seed=ord(key)).items()}
    model = network(nodes, {**constants, **conv_constants("d", 48, 16)})
    quantized = quantize(model, _scales(model), dialect)
    producers = {output: node for node in quantized.graph.node for output in node.output}
    readers = {name: [node for node in quantized.graph.node if name in node.input] for name in ("m", "j")}
    join = next(node for node in quantized.graph.node if node.name == "join")
    pool = next(node for node in quantized.graph.node if node.name == "pool")
    assert [node.op_type for node in (*readers["m"], *readers["j"])] == ["QuantizeLinear", "QuantizeLinear"]
    pairs = [*(producers[name] for name in (*join.input, *pool.input)), *readers["m"], *readers["j"]]
    assert len({array(quantized, node.input[1]).tobytes() for node in pairs}) == 1
    assert lint(quantized, dialect) == ()


def test_a_rectified_tensor_shares_no_scale_with_one_below_zero_where_that_costs_a_kernel() -> None:
    """With a shared zero point above the lowest integer ONNX Runtime cannot absorb the rectifier: the layer is
    float. OpenVINO and TensorRT absorb it all the same, and copy bytes where the scale is one.
    """
    nodes = [
        *(conv("a", "x", "p"), helper.make_node("Relu", ["p"], ["a"], name="relu")),
        *(conv("b", "a", "b"), helper.make_node("Concat", ["a", "b"], ["j"], name="join", axis=1)),
        conv("d", "j", "y"),
    ]
    constants = {**conv_constants("a", 16, 16), **conv_constants("b", 16, 16, seed=1), **conv_constants("d", 32, 16)}
    model = network(nodes, constants)
    for dialect in DIALECTS.values():
        quantized = quantize(model, _scales(model), dialect)
        readers = {node.input[0]: node for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
        zero_point, scales = (
            array(quantized, readers["a"].input[2]),
            {readers[name].input[1] for name in "abj" if name in readers},
        )
        if dialect.placement == "inputs":
            assert len(scales) == 1
        else:
            assert len(scales) > 1
            assert zero_point == dialect.activation_limits[0]


def test_keep_float_leaves_the_named_layers_alone(residual: onnx.ModelProto, scales: dict[str, Scales]) -> None:
    dialect = DIALECTS["onnxruntime-x86-vnni"]
    weights = {node.input[1] for node in residual.graph.node if node.op_type in ("Conv", "Gemm")}
    for patterns, expected in (
        (("head",), {"head.weight"}),
        (("halve.*",), {name for name in weights if name.startswith("halve.")}),
        (("stem.0.weight", "head"), {"stem.0.weight", "head.weight"}),
        (("node_linear",), {"head.weight"}),
    ):
        quantized = quantize(residual, scales["residual"], dialect, keep_float=patterns)
        kept = {node.input[1] for node in quantized.graph.node if node.op_type in ("Conv", "Gemm")} & weights
        assert kept == expected
        assert faults(quantized, dialect) == ()


@_EVERY
def test_any_single_layer_can_stay_float_without_another_calibration(
    dialect: Dialect, decoder: onnx.ModelProto, residual: onnx.ModelProto, scales: dict[str, Scales]
) -> None:
    for name, model in (("decoder", decoder), ("residual", residual)):
        batch = inputs(model, samples=8, seed=2)
        for layer in layers(model):
            quantized = quantize(model, scales[name], dialect, keep_float=[layer.name])
            assert layer.name in {found.name for found in layers(quantized) if found.precision == "float32"}
            assert decibels(_run(model, batch)[0], _run(quantized, batch)[0]) > 30.0


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_layer(residual, scales: dict[str, Scales]) -> None:
    with pytest.raises(DataError, match=r"'haed' matches no layer of the network\n  fix: Did you mean 'head'\?"):
        quantize(residual, scales["residual"], DIALECTS["tensorrt"], keep_float=["haed"])


def _one_conv(**changes: np.ndarray) -> onnx.ModelProto:
    return network([conv("c", "x", "y")], {**conv_constants("c", 16, 16), **changes})


def test_a_missing_range_is_refused_by_name() -> None:
    model = _one_conv()
    scales = _scales(model)
    ranges = {name: range_ for name, range_ in scales.ranges.items() if name != "y"}
    with pytest.raises(DataError, match="no range for tensor 'y'"):
        quantize(model, Scales("minmax", 1, ranges), DIALECTS["onnxruntime-x86"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    constants = conv_constants("c", 16, 16)
    constants["c.weight"][3, 1, 0, 0] = bad
    with pytest.raises(DataError, match=r"weight 'c.weight' holds 1 values that are not finite"):
        tensors_to_calibrate(network([conv("c", "x", "y")], constants))


def test_a_quantized_network_is_not_quantized_again() -> None:
    model = _one_conv()
    quantized = quantize(model, _scales(model), DIALECTS["tensorrt"])
    with pytest.raises(DataError, match="is quantized already"):
        quantize(quantized, _scales(model), DIALECTS["tensorrt"])


def test_half_precision_weights_are_refused_by_name() -> None:
    model = _one_conv()
    weight = array(model, "c.weight").astype(np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "c.weight"))
    with pytest.raises(DataError, match=r"weight 'c.weight' is float16"):
        tensors_to_calibrate(model)


def test_batch_normalisation_that_could_be_merged_is_refused_by_name() -> None:
    norm = helper.make_node("BatchNormalization", ["h", "one", "zero", "zero", "one"], ["y"], name="norm")
    constants = {**conv_constants("c", 16, 16), "one": np.ones(16, np.float32), "zero": np.zeros(16, np.float32)}
    with pytest.raises(DataError, match=r"'norm' stands behind convolution 'c'.*\n  fix: simplify"):
        tensors_to_calibrate(network([conv("c", "x", "h"), norm], constants))


def test_batch_normalisation_that_cannot_be_merged_stays_float_and_lint_says_so() -> None:
    nodes = [
        *(
            conv("c", "x", "h"),
            helper.make_node("BatchNormalization", ["h", "one", "zero", "zero", "one"], ["n"], name="norm"),
        ),
        *(conv("d", "n", "d"), helper.make_node("Add", ["d", "h"], ["y"], name="sum")),
    ]
    constants = {**conv_constants("c", 16, 16), "one": np.ones(16, np.float32), "zero": np.zeros(16, np.float32)}
    model = network(nodes, {**constants, **conv_constants("d", 16, 16, seed=1)})
    dialect = DIALECTS["onnxruntime-x86-vnni"]
    quantized = quantize(model, _scales(model), dialect)
    assert [layer.precision for layer in layers(quantized)] == ["int8", "int8"]
    assert [sentence for sentence in lint(quantized, dialect) if "BatchNormalization" in sentence]


@_EVERY
def test_a_network_without_products_is_refused_with_its_operators(dialect: Dialect) -> None:
    model = network([helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Softmax", ["e"], ["y"])], {})
    with pytest.raises(
        DataError, match=r"nothing in the network can be quantized for .*: its operators are Exp and Softmax"
    ):
        quantize(model, _scales_of(model), dialect)


def test_a_network_of_one_row_products_is_refused_for_tensorrt_with_the_reason() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    model = network([product], {"w": np.ones((8, 4), np.float32)}, shape=(8,))
    with pytest.raises(DataError, match="'product' stays float because it multiplies one row at batch one"):
        quantize(model, _scales(model), DIALECTS["tensorrt"])


def _scales_of(model: onnx.ModelProto) -> Scales:
    assert tensors_to_calibrate(model) == ()
    return Scales("minmax", 1, {})


@_EVERY
def test_an_operator_of_another_domain_that_is_called_conv_stays_as_it_is(dialect: Dialect) -> None:
    foreign = helper.make_node("Conv", ["h", "c.weight"], ["y"], name="foreign", domain="somewhere.else")
    model = network([conv("c", "x", "h")], conv_constants("c", 16, 16), outputs=("h",))
    model.graph.node.append(foreign)
    model.opset_import.append(helper.make_opsetid("somewhere.else", 1))
    node = next(node for node in quantize(model, Scales("m", 1, _both()), dialect).graph.node if node.name == "foreign")
    assert node.input[1] == "c.weight"


def _both() -> dict:
    from enginewright.graph.ranges import Range

    return {"x": Range(-3.0, 3.0), "h": Range(-4.0, 4.0)}


@_EVERY
def test_two_layers_that_share_their_weights_are_both_quantized(dialect: Dialect) -> None:
    second = helper.make_node("Conv", ["h", "c.weight", "c.bias"], ["y"], name="again", pads=[1] * 4)
    model = network([conv("c", "x", "h"), second], conv_constants("c", 16, 16))
    quantized = quantize(model, _scales(model), dialect)
    assert [layer.precision for layer in layers(quantized)] == ["int8", "int8"]
    batch = inputs(model, seed=1)
    assert decibels(_run(model, batch)[0], _run(quantized, batch)[0]) > 30.0


@_EVERY
def test_an_output_in_the_middle_of_the_network_keeps_its_name_and_value(dialect: Dialect) -> None:
    nodes = [conv("a", "x", "h"), helper.make_node("Relu", ["h"], ["r"], name="relu"), conv("b", "r", "y")]
    constants = {**conv_constants("a", 16, 16), **conv_constants("b", 16, 16, seed=1)}
    model = network(nodes, constants, outputs=("h", "r", "y"))
    quantized = quantize(model, _scales(model), dialect)
    batch = inputs(model, seed=1)
    for expected, actual in zip(_run(model, batch), _run(quantized, batch), strict=True):
        assert decibels(expected, actual) > 30.0
    onnxruntime.InferenceSession(quantized.SerializeToString()).run(None, batch)  # with its integer kernels, too


@_EVERY
def test_channels_that_pruning_left_empty_do_no_harm(dialect: Dialect) -> None:
    constants = {**conv_constants("a", 16, 16), **conv_constants("b", 16, 16, seed=1)}
    constants["a.weight"][:4] = 0.0
    constants["a.bias"][:2] = 0.0
    constants["b.weight"][5] = 1e-12
    constants["b.bias"][5] = 3.0
    nodes = [conv("a", "x", "h"), helper.make_node("Relu", ["h"], ["r"], name="relu"), conv("b", "r", "y")]
    model = network(nodes, constants)
    quantized = quantize(model, _scales(model), dialect)
    batch = inputs(model, seed=1)
    actual = onnxruntime.InferenceSession(quantized.SerializeToString()).run(None, batch)[0]
    expected = _run(model, batch)[0]
    assert np.abs(actual[:, 5] - expected[:, 5]).max() < 0.1


@_EVERY
def test_a_network_whose_activations_are_all_zero_still_gives_its_bias(dialect: Dialect) -> None:
    model = _one_conv()
    batch = {"x": np.zeros((2, 16, 8, 8), np.float32)}
    scales = calibrate(model, tensors_to_calibrate(model), [batch], method="mse")
    quantized = quantize(model, scales, dialect)
    np.testing.assert_allclose(_run(quantized, batch)[0], _run(model, batch)[0], atol=2e-3)


def test_weights_for_tensorrt_8_are_stored_as_float_that_stands_on_the_integers(residual, scales) -> None:
    quantized = quantize(residual, scales["residual"], DIALECTS["tensorrt"])
    quantizers = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear" and "/weight/" in node.name]
    assert len(quantizers) == 5
    for node in quantizers:
        weight, scale = array(quantized, node.input[0]), array(quantized, node.input[1])
        integers = weight / scale.reshape(-1, 1, 1, 1)
        assert np.abs(integers - np.rint(integers)).max() < 1e-4
        assert np.abs(np.rint(integers)).max() == 127


def test_tensorrt_gets_no_pair_on_the_branch_that_fuses_with_its_sum(residual, scales: dict[str, Scales]) -> None:
    quantized = quantize(residual, scales["residual"], DIALECTS["tensorrt"])
    producers = {output: node.op_type for node in quantized.graph.node for output in node.output}
    for node in quantized.graph.node:
        if node.op_type == "Add":
            assert sorted(producers[name] for name in node.input) == ["Conv", "DequantizeLinear"]
        if node.op_type == "Relu":
            assert producers[node.input[0]] in ("Conv", "Add")  # nothing between a convolution and its activation
    assert producers["result"] == "Gemm"


def test_tensors_to_calibrate_are_activations_in_graph_order(residual: onnx.ModelProto) -> None:
    tensors = tensors_to_calibrate(residual)
    order = ["image", *(output for node in residual.graph.node for output in node.output)]
    assert list(tensors) == [name for name in order if name in tensors]
    assert tensors[0] == "image"
    constants = {tensor.name for tensor in residual.graph.initializer}
    assert not constants.intersection(tensors)
