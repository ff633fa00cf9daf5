"""A prepared folder (tests/gpu/prepared.py) of one network with a few weights, made without the builder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tests.gpu.prepared import Samples, as_carried, write_prepared

from enginewright_runtime.bundle import write_bundle
from enginewright_runtime.golden import Golden
from enginewright_runtime.host import machine
from enginewright_runtime.manifest import Manifest, PendingEngine, TensorSpec

SAMPLES = 64
_IN, _OUT = 16, 4
_STEP = np.float32(4 / 127)
_RANDOM = np.random.default_rng(5)
_WEIGHTS = _RANDOM.normal(0, 0.5, (_IN, _OUT)).astype(np.float32)
_SCALE = np.float32(np.abs(_WEIGHTS).max() / 127)


def network(*, int8: bool, half: bool = False) -> ModelProto:
    """scores = x @ weights, with Q/DQ pairs or without; `half`: computed in float16."""
    kind = np.float16 if half else np.float32
    constants = [numpy_helper.from_array(_WEIGHTS.astype(kind), "weights")]
    nodes, product = [], ["x", "weights"]
    if int8:
        for tensor, scale in (("x", _STEP), ("weights", _SCALE)):
            constants += [
                numpy_helper.from_array(np.asarray(scale, np.float32), f"{tensor}/scale"),
                numpy_helper.from_array(np.asarray(0, np.int8), f"{tensor}/zero"),
            ]
            about = [f"{tensor}/scale", f"{tensor}/zero"]
            nodes.append(helper.make_node("QuantizeLinear", [tensor, *about], [f"{tensor}/q"], name=f"{tensor}/q"))
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{tensor}/q", *about], [f"{tensor}/dq"], name=f"{tensor}/dq")
            )
        product = ["x/dq", "weights/dq"]
    if half:
        nodes.append(helper.make_node("Cast", ["x"], ["x/half"], name="in", to=TensorProto.FLOAT16))
        nodes.append(helper.make_node("MatMul", ["x/half", "weights"], ["scores/half"], name="conv1"))
        nodes.append(helper.make_node("Cast", ["scores/half"], ["scores"], name="out", to=TensorProto.FLOAT))
    else:
        nodes.append(helper.make_node("MatMul", product, ["scores"], name="conv1"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", _IN])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", _OUT])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_prepared(folder: Path, *, compute_capability: str = "9.0") -> Path:
    """Write the folder, with one recipe called tiny, for this machine with a GPU of that compute capability."""
    x, _ = as_carried(np.clip(_RANDOM.normal(0, 1, (SAMPLES, _IN)), -4, 4).astype(np.float32))
    rounded = np.clip(np.round(x / _STEP), -127, 127) * _STEP
    twin = (rounded @ (np.round(_WEIGHTS / _SCALE) * _SCALE)).astype(np.float32)
    reference = x @ _WEIGHTS
    samples = Samples({"x": x}, reference.argmax(1), {"scores": reference}, {"scores": twin})
    golden = Golden({"x": x[:4]}, {"scores": twin[:4]}, {"scores": np.asarray(0.05 * np.abs(twin).max())})
    needs = {"machine": machine(), "compute_capability": compute_capability}
    manifest = Manifest(
        name="tiny",
        target="h200",
        inputs=(TensorSpec("x", ("batch", _IN), "float32"),),
        outputs=(TensorSpec("scores", ("batch", _OUT), "float32"),),
        budget={"accuracy_drop": 0.05},
        accuracy={"reference": 1.0, "engine": 1.0},
        pending=(PendingEngine("tensorrt", {"sizes": {"batch": [1, 1, 32]}}, needs),),
    )
    int8 = network(int8=True).SerializeToString()
    files = {
        "model.onnx": int8,
        "model.float16.onnx": int8,
        "unquantized.float16.onnx": network(int8=False, half=True).SerializeToString(),
        "golden.npz": golden.to_bytes(),
        "floors.json": json.dumps({"layers": [{"name": "conv1", "precision": "int8"}]}).encode(),
    }
    bundle = folder / "tiny.ewb"
    folder.mkdir(parents=True, exist_ok=True)
    write_bundle(bundle, manifest, files)
    right = float((twin.argmax(1) == samples.labels).mean())
    write_prepared(folder, "tiny", bundle, samples, metric="top1", accuracy={"reference": 1.0, "twin": right})
    return folder
