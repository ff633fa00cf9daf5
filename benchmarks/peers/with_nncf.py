"""NNCF's post-training quantization of an ONNX network: `nncf.quantize` for a CPU, on all calibration samples.

Reads float.onnx and calibration.npz in the working folder and writes quantized.onnx there.
"""

import nncf
import numpy as np
import onnx

with np.load("calibration.npz") as arrays:
    inputs = {name: arrays[name] for name in arrays.files}
count = len(next(iter(inputs.values())))
samples = [{name: values[i : i + 1] for name, values in inputs.items()} for i in range(count)]
quantized = nncf.quantize(
    onnx.load("float.onnx"), nncf.Dataset(samples), target_device=nncf.TargetDevice.CPU, subset_size=count
)
onnx.save(quantized, "quantized.onnx")
