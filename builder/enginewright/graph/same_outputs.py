"""Whether two networks compute the same: what a step that only rewrites a network must hold."""

from __future__ import annotations

import onnx

from enginewright.errors import DataError
from enginewright.signature import Signature, largest_difference

__all__ = ["largest_output_difference"]


def largest_output_difference(before: onnx.ModelProto, after: onnx.ModelProto, signature: Signature) -> float:
    """The largest difference of an output on example inputs, as a share of that output's largest magnitude.

    Raises DataError where ONNX Runtime cannot run one of them.
    """
    import onnxruntime

    inputs = signature.example(batch=2)
    try:
        results = [
            onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                list(signature.outputs), inputs
            )
            for network in (before, after)
        ]
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise DataError(
            f"ONNX Runtime cannot run the network: {error}", hint="write it with operators that ONNX Runtime has"
        ) from error
    return max(largest_difference(new, old) for old, new in zip(*results, strict=True))
