"""What is read of an ONNX model without the onnx library is what the library reads, and nonsense is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.contract import backend_networks as networks
from tests.runtime.tiny_bundle import tiny_model

from enginewright_runtime.backends.onnx_model import declaration
from enginewright_runtime.errors import EngineError
from enginewright_runtime.manifest import TensorSpec


def test_inputs_and_outputs_are_read_in_order_with_their_free_dimensions() -> None:
    found = declaration(networks.lookup().SerializeToString())
    assert found.inputs == (TensorSpec("index", ("batch",), "int64"), TensorSpec("wanted", ("batch", 1), "bool"))
    assert found.outputs == (TensorSpec("y", ("batch", 4), "float32"), TensorSpec("next", ("batch",), "int64"))
    assert found.shapeless == frozenset()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"])
def test_dtypes_are_numpy_s(dtype: str) -> None:
    assert declaration(networks.typed(dtype).SerializeToString()).inputs[0].dtype == dtype


def test_a_shape_that_is_not_said_is_told_apart_from_a_scalar() -> None:
    assert declaration(networks.free_size().SerializeToString()).shapeless == {"y"}
    scalar = networks.model(
        [helper.make_node("Identity", ["x"], ["y"])], [networks.value("x", [])], [networks.value("y", [])]
    )
    found = declaration(scalar.SerializeToString())
    assert (found.inputs[0].shape, found.outputs[0].shape, found.shapeless) == ((), (), frozenset())


def test_a_dimension_without_size_and_name_is_free() -> None:
    network = networks.linear()
    sizes = network.graph.input[0].type.tensor_type.shape.dim
    sizes[0].ClearField("dim_param")
    sizes[1].dim_value = -1  # some exporters write this
    assert declaration(network.SerializeToString()).inputs[0].shape == ("?", "?")


def test_weights_that_stand_among_the_inputs_are_none() -> None:
    network = networks.linear()
    network.graph.input.append(networks.value("weights", [4, 3]))
    assert [spec.name for spec in declaration(network.SerializeToString()).inputs] == ["x"]


def test_what_is_no_tensor_of_numbers_is_refused_by_name() -> None:
    network = networks.linear()
    network.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(EngineError, match="y is a tensor of bfloat16, and only"):
        declaration(network.SerializeToString())
    network.graph.output[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(EngineError, match="y is not a tensor, and only"):
        declaration(network.SerializeToString())
    network.graph.input[0].type.tensor_type.ClearField("shape")
    network.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(EngineError, match="the input x of the model has no shape"):
        declaration(network.SerializeToString())


@pytest.mark.parametrize("inside", ["graph", "node", "branch"])
def test_weights_in_another_file_are_named(inside: str) -> None:
    with pytest.raises(EngineError, match="the weight 'weights' is in another file") as caught:
        declaration(networks.with_weights_elsewhere("w.bin", inside=inside).SerializeToString())
    assert caught.value.hint


def _elsewhere() -> onnx.TensorProto:
    [weights] = networks.with_weights_elsewhere("w.bin", inside="graph").graph.initializer
    return weights


@pytest.mark.parametrize("place", ["list", "sparse", "sparse_constant", "function", "default"])
def test_weights_in_another_file_are_found_wherever_onnx_has_tensors(place: str) -> None:
    network = networks.linear()
    sparse = onnx.SparseTensorProto(values=_elsewhere(), dims=[4])
    node = helper.make_node("Constant", [], ["c"])
    if place == "list":
        node.attribute.add(name="several", type=onnx.AttributeProto.TENSORS).tensors.append(_elsewhere())
    elif place == "sparse_constant":
        node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse)
    elif place == "sparse":
        network.graph.sparse_initializer.append(sparse)
    else:
        function = network.functions.add(name="f", domain="d")
        attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=_elsewhere())
        if place == "default":
            function.attribute_proto.append(attribute)
        else:
            function.node.add(op_type="Constant", output=["c"]).attribute.append(attribute)
    network.graph.node.append(node)
    with pytest.raises(EngineError, match="is in another file"):
        declaration(network.SerializeToString())


def test_graphs_within_graphs_without_end_are_refused() -> None:
    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content

    def nested(levels: int) -> bytes:
        graph = b""
        for _ in range(levels):
            graph = field(1, field(5, field(6, graph)))
        return field(7, graph)

    assert declaration(nested(30)).inputs == ()
    with pytest.raises(EngineError, match="more than 33 deep"):
        declaration(nested(2_000))


def test_a_model_cut_short_anywhere_is_refused() -> None:
    model = tiny_model()
    # The last fields of the file say nothing that is read, so only what ends before the graph does is cut short.
    end = model.index(b"weights", model.index(b"tiny"))
    for size in range(end):
        with pytest.raises(EngineError):
            declaration(model[:size])


@given(st.binary(max_size=300))
def test_noise_is_refused_as_no_model(noise: bytes) -> None:
    with pytest.raises(EngineError):
        declaration(noise)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_read_or_refused_and_nothing_else(position: int, change: int) -> None:
    model = bytearray(networks.convolutions().SerializeToString())
    model[position % len(model)] ^= change
    try:
        declaration(bytes(model))
    except EngineError as error:
        assert error.message  # noqa: PT017 # that it is an EngineError is the promise


def test_weights_are_stepped_over() -> None:
    network = networks.linear()
    network.graph.initializer.append(numpy_helper.from_array(np.zeros(50_000_000, np.uint8), "large"))
    assert len(declaration(network.SerializeToString()).inputs) == 1
