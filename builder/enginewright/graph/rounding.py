"""Round the weights of a layer together, so that the errors of one make up for those of others.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (arXiv 2210.17323),
which is the Optimal Brain Surgeon of Hassibi and Stork for rounding: weights are rounded one input at a time, and what is
lost is spread over those inputs that are still to come, in closed form from the second moments of the layer's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from enginewright.errors import DataError
from enginewright.graph.execution import Array, InnerTensors
from enginewright.graph.integer_layers import IntegerLayer, IntegerLayers
from enginewright.graph.normal_form import normal_form
from enginewright.graph.patches import Product, product_of
from enginewright.graph.rules import weights_of
from enginewright.graph.topology import Topology

__all__ = ["Batches", "Moments", "Rounding", "adaptive_rounding", "rounded", "rounded_together"]

Batches = Callable[[], Iterable[Mapping[str, Array]]]
Matrix = npt.NDArray[np.float64]

_POSITIONS = 64  # of a sample: neighbouring positions tell nearly the same
_ROWS_PER_INPUT = 4  # with fewer rows the second moments are mostly chance
_DAMPING = 0.01  # of the mean variance, added to each input's
_BLOCK = 128  # inputs at a time: what they lose is spread over the rest in one product
_MOST_BYTES = 512 << 20  # of second moments at once; more layers are looked at in further runs


@dataclass(frozen=True)
class Moments:
    """Of the inputs that a layer's weights are multiplied with: the mean (groups, inputs), the second moments about it
    (groups, inputs, inputs), and the number of rows they were taken on.
    """

    mean: Matrix
    covariance: Matrix
    rows: int


@dataclass(frozen=True)
class Rounding:
    """A layer's weights on integers, for its `scale`, and what must be added to its bias for it."""

    scale: Matrix
    integers: npt.NDArray[np.int64]
    bias_shift: Matrix


def rounded_together(weights: Matrix, covariance: Matrix, scale: Matrix, limit: int) -> npt.NDArray[np.int64]:
    """Integers for `weights` (outputs, inputs), which times `scale` (one an output) give nearly the same sums over
    inputs with this covariance. Weights that are zero stay zero: pruning made them.

    >>> weights, alike = np.array([[0.4, 0.4]]), np.array([[1.0, 1.0], [1.0, 1.0]])
    >>> rounded_together(weights, alike, np.array([1.0]), 127).tolist()
    [[0, 1]]
    """
    outputs, inputs = weights.shape
    variance = float(np.trace(covariance)) / inputs
    if variance <= 0.0:
        return _nearest(weights, scale, limit)
    # Where the input varies most, a weight is rounded first, while there is still much to make up for it with.
    order = np.argsort(-np.diag(covariance), kind="stable")
    damped = covariance[np.ix_(order, order)] + _DAMPING * variance * np.eye(inputs)
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, zero = weights[:, order].copy(), weights[:, order] == 0.0
    integers = np.zeros((outputs, inputs), np.int64)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        lost = np.zeros((outputs, end - start))
        for index in range(start, end):
            integers[:, index] = np.where(zero[:, index], 0, _nearest(left[:, index : index + 1], scale, limit)[:, 0])
            error = (left[:, index] - integers[:, index] * scale) / spread[index, index]
            left[:, index:end] -= np.outer(error, spread[index, index:end])
            lost[:, index - start] = error
        left[:, end:] -= lost @ spread[start:end, end:]
    result = np.empty_like(integers)
    result[:, order] = integers
    return result


def adaptive_rounding(
    network: onnx.ModelProto, quantized: onnx.ModelProto, batches: Batches, *, limit: int, threads: int = 1
) -> Mapping[str, Rounding]:
    """The rounding of each layer that is int8 in `quantized`, by the layer's name, from what the layer is given in the
    float `network`; so it is the same whichever other layers are int8.

    `limit`: the largest magnitude of an integer weight. `batches` gives the same samples each time it is called: once,
    or more often where the second moments of all layers would not fit into memory. Left out are transposed convolutions
    and layers that see too few rows to know their second moments. Raises DataError if there is no sample.
    """
    plain = normal_form(network)
    view = Topology(plain)
    found = {layer.name: layer for layer in IntegerLayers(quantized).all()}
    products = {
        node.name: (node, product)
        for node in view.nodes
        if node.name in found and (product := product_of(node, view)) is not None
    }
    result: dict[str, Rounding] = {}
    for part in _parts({name: _bytes(found[name], product) for name, (_, product) in products.items()}):
        moments = _moments(plain, {name: products[name] for name in part}, batches, threads)
        for name in part:
            node, product = products[name]
            weights = weights_of(node, view)
            if weights is not None and moments[name].rows >= _ROWS_PER_INPUT * moments[name].mean.shape[1]:
                real = weights.weight.astype(np.float64)
                result[name] = _round_layer(real, found[name], product, moments.pop(name), limit)
    return result


def rounded(quantized: onnx.ModelProto, rounding: Mapping[str, Rounding]) -> onnx.ModelProto:
    """A copy of a network with Q/DQ nodes in which the int8 layers that `rounding` knows have its weights. Layers whose
    scale is another one, or which have no bias that could take the shift, stay as they are.
    """
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    layers = IntegerLayers(result)
    for layer in layers.all():
        new = rounding.get(layer.name)
        if new is None or layer.bias is None or not np.array_equal(layer.scale, new.scale):
            continue
        layers.set_weight(layer, new.integers)
        layers.set_bias(layer, layer.bias + new.bias_shift)
    return result


def _round_layer(real: Matrix, layer: IntegerLayer, product: Product, moments: Moments, limit: int) -> Rounding:
    weights = product.weights(real)
    scale = layer.scale.reshape(product.groups, -1)
    integers = np.stack(
        [rounded_together(*each, limit) for each in zip(weights, moments.covariance, scale, strict=True)]
    )
    # The covariance leaves the mean out of account, since the bias makes up for its error exactly.
    error = weights - integers * scale[:, :, None]
    shift = np.einsum("goi,gi->go", error, moments.mean).reshape(-1)
    tensor = product.weight_tensor(integers.astype(np.float64), real.shape).astype(np.int64)
    return Rounding(layer.scale, tensor, shift)


def _moments(
    network: onnx.ModelProto,
    products: Mapping[str, tuple[onnx.NodeProto, Product]],
    batches: Batches,
    threads: int,
) -> dict[str, Moments]:
    readers: dict[str, list[str]] = {}
    for name, (node, _) in products.items():
        readers.setdefault(node.input[0], []).append(name)
    inner = InnerTensors([network], list(readers), threads=threads)
    random = np.random.default_rng(0)
    sums: dict[str, Matrix] = {}
    squares: dict[str, Matrix] = {}
    rows = dict.fromkeys(products, 0)
    for batch in batches():
        for tensor, (values,) in inner.run(batch):
            for name in readers[tensor]:
                taken = products[name][1].rows(values, _POSITIONS, random)
                rows[name] += taken.shape[1]
                sums[name] = sums.get(name, 0.0) + taken.sum(axis=1, dtype=np.float64)
                squares[name] = squares.get(name, 0.0) + _squares(taken)
    if products and not sums:
        raise DataError("adaptive rounding: there is not a single sample", hint="give calibration data")
    result: dict[str, Moments] = {}
    for name in products:
        mean = sums[name] / rows[name]
        covariance = squares.pop(name) / rows[name] - mean[:, :, None] * mean[:, None, :]
        result[name] = Moments(mean, covariance, rows[name])
    return result


def _squares(rows: npt.NDArray[np.float32]) -> Matrix:
    result: Matrix = np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float64)
    return result


def _nearest(weights: Matrix, scale: Matrix, limit: int) -> npt.NDArray[np.int64]:
    return np.clip(np.rint(weights / scale[:, None]), -limit, limit).astype(np.int64)


def _bytes(layer: IntegerLayer, product: Product) -> int:
    inputs = layer.integers.size // len(layer.scale)
    return 8 * product.groups * inputs * inputs


def _parts(sizes: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """The layers in their order, cut into parts whose second moments take _MOST_BYTES at most (or of one layer)."""
    part: list[str] = []
    held = 0
    for name, size in sizes.items():
        if part and held + size > _MOST_BYTES:
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    if part:
        yield part
