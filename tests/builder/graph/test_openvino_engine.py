"""What OpenVINO's CPU plugin makes of our pairs: which layers it runs on integers, and that they compute what the
graph says.

Its executed graph (get_runtime_model) tells the type that each layer computes in.
"""

from __future__ import annotations

import onnx
import pytest
from tests.builder.graph.small_networks import decibels, inputs

from enginewright.graph.dialects import DIALECTS, backend_dialect
from enginewright.graph.execution import open_session
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright_runtime import host
from enginewright_runtime.backends import openvino as module
from enginewright_runtime.errors import BackendMissing

try:  # by the backend, for a plain import would report home
    module._library()
except BackendMissing as error:
    pytest.skip(f"{error.message}: {error.hint}", allow_module_level=True)

_HERE = backend_dialect("openvino", host.machine(), host.instruction_sets())
_PRODUCTS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_ON_X86 = pytest.mark.skipif(host.machine() != "x86_64", reason="the kernels of OpenVINO differ off x86")


def _quantized(model: onnx.ModelProto, dialect: str, *, keep_float: tuple[str, ...] = ()) -> onnx.ModelProto:
    scales = calibrate(model, tensors_to_calibrate(model), [inputs(model)], method="percentile")
    return quantize(model, scales, DIALECTS[dialect], keep_float=keep_float)


def _layers(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """The kind of each product in the executed graph, and the type that it computes in: f32, u8 or i8."""
    core = module._core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", module.Settings(threads=1).properties()
    )
    found = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    told = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in found]
    return [(kind, type_) for kind, type_ in told if kind in _PRODUCTS]


@_ON_X86
@pytest.mark.parametrize("dialect", ["openvino-x86-vnni", "openvino-x86"])
@pytest.mark.parametrize(("name", "products"), [("residual", 7), ("decoder", 5), ("tokens", 3)])
def test_every_product_runs_on_integers(name: str, products: int, dialect: str, request: pytest.FixtureRequest) -> None:
    layers = _layers(_quantized(request.getfixturevalue(name), dialect))
    assert [type_ for _, type_ in layers] == ["u8"] * products


@_ON_X86
def test_a_layer_that_is_kept_in_float_stays_float_in_the_engine(residual: onnx.ModelProto) -> None:
    layers = _layers(_quantized(residual, _HERE, keep_float=("keep.conv2", "head")))
    assert sorted(type_ for _, type_ in layers) == ["f32"] * 2 + ["u8"] * 5


@pytest.mark.parametrize("name", ["residual", "decoder", "tokens"])
def test_the_integer_kernels_of_this_computer_compute_what_the_graph_says(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    quantized = _quantized(model, _HERE)
    batch = inputs(model, samples=64, seed=4)
    compiled = module.BACKEND.compile(quantized.SerializeToString(), {})
    (engine,) = module.BACKEND.open(compiled, {}).run(batch).values()
    (graph,) = open_session(quantized, threads=1).run(None, batch)
    (reference,) = open_session(model, threads=1).run(None, batch)

    print(name, _HERE, decibels(reference, engine), decibels(reference, graph))
    assert decibels(reference, engine) > 30.0
    # The kernels round in another order, so the two need not agree to the bit; the signal that is left must be the
    # same.
    assert decibels(reference, engine) > decibels(reference, graph) - 1.0
