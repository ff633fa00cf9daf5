"""Olive's static quantization of an ONNX network: the pass OnnxStaticQuantization, one scale a channel, 7-bit weights
asked for, all else as it comes.

Reads float.onnx and calibration.npz in the working folder and writes quantized.onnx there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from olive.data.config import DataComponentConfig, DataConfig
from olive.data.registry import Registry
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.quantization import OnnxStaticQuantization


@Registry.register_dataset("calibration_samples")
def calibration_samples(**_: Any) -> list[tuple[dict[str, np.ndarray], int]]:
    """The samples one by one, each with a label that nobody reads."""
    with np.load("calibration.npz") as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    return [({name: values[i] for name, values in inputs.items()}, 0) for i in range(len(next(iter(inputs.values()))))]


data = DataConfig(name="calibration", load_dataset_config=DataComponentConfig(type="calibration_samples"))
quantize = create_pass_from_dict(
    OnnxStaticQuantization, {"data_config": data, "per_channel": True, "reduce_range": True}, disable_search=True
)
made = quantize.run(ONNXModelHandler(model_path="float.onnx"), "olive")
onnx.save(onnx.load(made.model_path), Path("quantized.onnx"))
