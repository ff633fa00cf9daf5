"""What the weights of a layer are multiplied with: the rows of the matrix product that a convolution or a linear layer
is, at some positions of its output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from enginewright.graph.topology import Topology, attributes

__all__ = ["Product", "product_of"]


@dataclass(frozen=True)
class Product:
    """A layer as a matrix product for each of its `groups`: inputs (rows, inputs) times weights (inputs, outputs).

    For a convolution `kernel`, `strides`, `dilations` and `padding` (begin and end of each dimension) are those of its
    spatial dimensions; for a linear layer they are empty, and `transposed` tells whether its weight is (outputs, inputs).
    """

    groups: int
    transposed: bool
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()

    def weights(self, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """A weight tensor as (groups, outputs, inputs)."""
        matrix = weight.reshape(weight.shape[0], -1) if self.transposed else weight.T
        return np.ascontiguousarray(matrix.reshape(self.groups, -1, matrix.shape[1]))

    def weight_tensor(self, matrix: npt.NDArray[np.float64], shape: Sequence[int]) -> npt.NDArray[np.float64]:
        """What `weights` was given, of a tensor with this shape."""
        rows = matrix.reshape(-1, matrix.shape[-1])
        return np.ascontiguousarray(rows if self.transposed else rows.T).reshape(shape)

    def rows(self, values: npt.NDArray[np.generic], most: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
        """The inputs of the product at `most` positions of each sample, or at all where there are fewer, as (groups,
        rows, inputs). The positions are drawn once for all samples of `values`.
        """
        if not self.kernel:
            tokens = np.asarray(values, np.float32).reshape(len(values), -1, values.shape[-1])
            return np.ascontiguousarray(
                tokens[:, _some(tokens.shape[1], most, random)].reshape(1, -1, values.shape[-1])
            )
        padded = np.pad(np.asarray(values, np.float32), ((0, 0), (0, 0), *self.padding))
        counts = [
            (size - dilation * (length - 1) - 1) // stride + 1
            for size, length, stride, dilation in zip(
                padded.shape[2:], self.kernel, self.strides, self.dilations, strict=True
            )
        ]
        chosen = np.unravel_index(_some(math.prod(counts), most, random), counts)
        rank = len(self.kernel)
        indices = []
        for axis, (length, stride, dilation) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True)):
            offsets = (np.arange(length) * dilation).reshape([-1 if other == axis else 1 for other in range(rank)])
            indices.append((chosen[axis] * stride).reshape([-1] + [1] * rank) + offsets)
        # (samples, channels, positions, kernel...) -> (groups, samples x positions, channels of the group x kernel)
        everything: tuple[slice | npt.NDArray[np.intp], ...] = (slice(None), slice(None))
        taken = padded[everything + tuple(indices)]
        samples, channels, positions = taken.shape[:3]
        grouped = taken.reshape(samples, self.groups, channels // self.groups, positions, -1).transpose(1, 0, 3, 2, 4)
        return np.ascontiguousarray(grouped.reshape(self.groups, samples * positions, -1))


def product_of(node: onnx.NodeProto, view: Topology) -> Product | None:
    """How a layer multiplies; None for a transposed convolution, and for padding that depends on the input's size."""
    plain = attributes(node)
    if node.op_type in ("Gemm", "MatMul"):
        return Product(1, transposed=bool(plain.get("transB", 0)))
    if node.op_type != "Conv" or plain.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    kernel = view.shape(node.input[1])[2:]
    ones = (1,) * len(kernel)
    pads, group = _integers(plain.get("pads"), ones * 2, otherwise=0), plain.get("group", 1)
    return Product(
        group if isinstance(group, int) else 1,
        transposed=True,
        kernel=kernel,
        strides=_integers(plain.get("strides"), ones),
        dilations=_integers(plain.get("dilations"), ones),
        padding=tuple(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)),
    )


def _integers(value: object, like: tuple[int, ...], *, otherwise: int = 1) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (otherwise,) * len(like)


def _some(count: int, most: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """`most` of `count` indices in their order, or all."""
    if count <= most:
        return np.arange(count)
    return np.sort(random.choice(count, most, replace=False))
