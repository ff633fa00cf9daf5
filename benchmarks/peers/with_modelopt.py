"""NVIDIA ModelOpt's int8 quantization of an ONNX network, on its defaults; what it leaves unquantized stays float32.

It is made for GPUs and would leave float16. Reads float.onnx and calibration.npz in the working folder and writes
quantized.onnx there.
"""

import numpy as np
from modelopt.onnx.quantization import quantize

with np.load("calibration.npz") as arrays:
    inputs = {name: arrays[name] for name in arrays.files}
quantize(
    "float.onnx",
    quantize_mode="int8",
    calibration_data=inputs,
    calibration_eps=["cpu"],
    high_precision_dtype="fp32",
    output_path="quantized.onnx",
)
