"""ONNX Runtime's own static quantization: `quantize_static`, one scale a channel, all else as it comes.

With `--reduce-range` it is asked for 7-bit weights, with `--unsigned` for uint8 activations, which its documentation
advises for x86 with VNNI. Reads float.onnx and calibration.npz in the working folder, and writes
quantized.onnx there.
"""

import argparse

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static  # noqa: TID253 (its own environment)


class Samples(CalibrationDataReader):
    """The calibration samples, one at a time."""

    def __init__(self) -> None:
        with np.load("calibration.npz") as arrays:
            inputs = {name: arrays[name] for name in arrays.files}
        count = len(next(iter(inputs.values())))
        self._left = iter([{name: values[i : i + 1] for name, values in inputs.items()} for i in range(count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


parser = argparse.ArgumentParser()
parser.add_argument("--reduce-range", action="store_true")
parser.add_argument("--unsigned", action="store_true")
arguments = parser.parse_args()
quantize_static(
    "float.onnx",
    "quantized.onnx",
    Samples(),
    per_channel=True,
    reduce_range=arguments.reduce_range,
    activation_type=QuantType.QUInt8 if arguments.unsigned else QuantType.QInt8,  # signed is its default
)
