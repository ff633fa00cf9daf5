"""Which layers of a network have 2:4 sparse weights: at least two zeros in every four along the input channels, the
pattern for which GPUs from Ampere on have kernels of twice the rate (Mishra et al. 2021).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from enginewright.graph.rules import RULES, Kind
from enginewright.graph.topology import Topology, attributes, only_default_domain

__all__ = ["sparse_layers"]

_GROUP, _ZEROS = 4, 2


def sparse_layers(network: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the layers whose weights obey the pattern, in graph order; float networks and those with Q/DQ nodes.

    Convolutions in groups and transposed ones are left out: no engine has sparse kernels for them.
    """
    view = Topology(network)
    return tuple(node.name for node in view.nodes if _is_sparse(node, view))


def _is_sparse(node: onnx.NodeProto, view: Topology) -> bool:
    if not only_default_domain(node) or RULES.get(node.op_type) is not Kind.WEIGHTED:
        return False
    if node.op_type == "ConvTranspose" or attributes(node).get("group", 1) != 1:
        return False
    weight = _weight(node.input[1], view)
    if weight is None or weight.ndim < 2 or (node.op_type == "MatMul" and weight.ndim > 2):
        return False
    rows = np.moveaxis(weight, _input_axis(node), -1)
    if rows.shape[-1] % _GROUP:
        return False
    zeros = (rows.reshape(*rows.shape[:-1], -1, _GROUP) == 0).sum(axis=-1)
    return bool((zeros >= _ZEROS).all())


def _input_axis(node: onnx.NodeProto) -> int:
    return 1 if node.op_type == "Conv" or attributes(node).get("transB", 0) else 0


def _weight(tensor: str, view: Topology) -> npt.NDArray[np.generic] | None:
    """The stored weights, through their quantizers; None where they are computed, or where zero is no zero in integers."""
    maker = view.producer(tensor)
    while maker is not None and maker.op_type in ("DequantizeLinear", "QuantizeLinear"):
        zero_point = view.constant(maker.input[2]) if len(maker.input) > 2 and maker.input[2] else np.zeros(1)
        if zero_point is None or zero_point.any():
            return None
        tensor = maker.input[0]
        maker = view.producer(tensor)
    return view.constant(tensor)
