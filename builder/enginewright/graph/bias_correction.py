"""Take the mean error of each output channel of an int8 layer out of its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721), section 4.2,
in the empirical form (appendix D): the mean is taken on samples, and the layers are corrected in graph order, so that
each sees what the corrected layers before it give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx

from enginewright.errors import DataError
from enginewright.graph.execution import Array, InnerTensors
from enginewright.graph.integer_layers import IntegerLayers
from enginewright.graph.normal_form import normal_form
from enginewright.graph.topology import Topology

__all__ = ["Batches", "bias_corrected"]

Batches = Callable[[], Iterable[Mapping[str, Array]]]

_Means = dict[str, npt.NDArray[np.float64]]


def bias_corrected(
    network: onnx.ModelProto,
    quantized: onnx.ModelProto,
    batches: Batches,
    *,
    threads: int = 1,
    on_layer: Callable[[int, int], None] | None = None,
) -> onnx.ModelProto:
    """A copy of `quantized` in which every int8 layer with a bias gives, in each channel, the mean that it gives in the
    float `network`, over all samples and positions. Nothing but biases changes.

    `batches` gives the same samples each time it is called: the float network runs over them once, the quantized one
    once for each layer, and no further than that layer. Only sums stay, so memory does not depend on their number.
    `on_layer` is told the number of layers that are done, and of all.
    Raises DataError if there is no sample.
    """
    plain = normal_form(network)
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    layers = IntegerLayers(result)
    made = {node.name: node.output[0] for node in plain.graph.node}
    channels = {node.name: 1 if node.op_type.startswith("Conv") else -1 for node in plain.graph.node}
    corrected = [layer for layer in layers.all() if layer.bias is not None and layer.name in made]
    expected = _means(plain, {made[layer.name]: channels[layer.name] for layer in corrected}, batches, threads)
    for number, layer in enumerate(corrected):
        actual = _means(_up_to(result, layer.name), {layer.output: channels[layer.name]}, batches, threads)
        assert layer.bias is not None
        layers.set_bias(layer, layer.bias + expected[made[layer.name]] - actual[layer.output])
        if on_layer is not None:
            on_layer(number + 1, len(corrected))
    return result


def _means(model: onnx.ModelProto, tensors: Mapping[str, int], batches: Batches, threads: int) -> _Means:
    """The mean of each channel of each tensor; `tensors` gives the axis that the channels lie along."""
    inner = InnerTensors([model], list(tensors), threads=threads)
    sums: _Means = {}
    counts = dict.fromkeys(tensors, 0)
    for batch in batches():
        for tensor, (values,) in inner.run(batch):
            by_channel = np.moveaxis(values, tensors[tensor], 0).reshape(values.shape[tensors[tensor]], -1)
            sums[tensor] = sums.get(tensor, 0.0) + by_channel.sum(axis=1, dtype=np.float64)
            counts[tensor] += by_channel.shape[1]
    if tensors and not sums:
        raise DataError("bias correction: there is not a single sample", hint="give calibration data")
    return {tensor: total / counts[tensor] for tensor, total in sums.items()}


def _up_to(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The network from its inputs to the output of the node `name`, which is its only output."""
    view = Topology(model)
    last = next(index for index, node in enumerate(view.nodes) if node.name == name)
    part = onnx.ModelProto()
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name
    part.graph.node.extend(view.nodes[: last + 1])
    part.graph.input.extend(model.graph.input)
    kept = {node.name for node in part.graph.node}
    read = {tensor for tensor in view.initializers if any(node.name in kept for node in view.consumers(tensor))}
    part.graph.initializer.extend(value for tensor, value in view.initializers.items() if tensor in read)
    part.graph.output.append(
        onnx.helper.make_tensor_value_info(view.nodes[last].output[0], onnx.TensorProto.FLOAT, None)
    )
    return part
