"""A torch network as the builder has it in ONNX, and quantized with ranges that are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.execution import open_session
from enginewright.graph.learned_ranges import learned_ranges
from enginewright.graph.methods import Range
from enginewright.graph.normal_form import normal_form
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright.graph.torch_export import export_network
from enginewright.signature import Signature


def exported(network: nn.Module, signature: Signature, folder: Path) -> onnx.ModelProto:
    """As the stages `export` and `simplify` make it."""
    import onnxsim

    export_network(network, signature, folder / "exported.onnx")
    simplified, _ = onnxsim.simplify(onnx.load(folder / "exported.onnx"))
    return normal_form(simplified)


def quantized(
    network: onnx.ModelProto, images: np.ndarray, modules: Mapping[str, Range], dialect: str
) -> onnx.ModelProto:
    """Calibrated on images, with learned ranges in the place of those that calibration found."""
    scales = calibrate(network, tensors_to_calibrate(network), [{"image": images}], method="minmax")
    learned = learned_ranges(network, modules)
    return quantize(network, replace(scales, ranges={**scales.ranges, **learned.tensors}), DIALECTS[dialect])


def run_in_float(network: onnx.ModelProto, images: np.ndarray) -> Any:
    """The first output; pairs of Q/DQ round as written, and no integer kernel takes their place."""
    return open_session(network, threads=1).run(None, {"image": images})[0]
