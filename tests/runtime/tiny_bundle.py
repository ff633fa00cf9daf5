"""A bundle of a network with twelve weights, for the tests: small enough to flip each of its bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from enginewright_runtime.backends import backend
from enginewright_runtime.bundle import write_bundle
from enginewright_runtime.golden import Golden
from enginewright_runtime.manifest import BuildStep, EngineEntry, Manifest, TensorSpec

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)
SETTINGS = {"threads": 1}


def tiny_model() -> bytes:
    """y = relu(x @ WEIGHTS), x: float32 [batch, 4]."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["product"]), helper.make_node("Relu", ["product"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("weights", TensorProto.FLOAT, WEIGHTS.shape, WEIGHTS)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def tiny_manifest() -> Manifest:
    """A manifest without engines and files."""
    return Manifest(
        name="tiny",
        target="cpu",
        inputs=(TensorSpec("x", ("batch", 4), "float32"),),
        outputs=(TensorSpec("y", ("batch", 3), "float32"),),
        budget={"latency_p99_ms": 1000.0, "size_mib": 1.0},
        accuracy={"reference": 0.95, "engine": 0.94},
        host={"machine": "x86_64"},
        versions={"onnx": "1.0"},
        recipe="recipe: 1\nname: tiny\n",
        steps=(BuildStep("import", "0" * 64),),
    )


def tiny_golden(*, off_by: float = 0.0) -> Golden:
    """Two samples and their outputs, wrong by `off_by`."""
    x = np.array([[1, 2, 3, 4], [-1, 0, 0, 1]], np.float32)
    expected = np.maximum(x @ WEIGHTS, 0) + np.float32(off_by)
    return Golden({"x": x}, {"y": expected}, {"y": np.array(1e-4, np.float32)})


def make_bundle(path: Path, *, manifest: Manifest | None = None, golden: Golden | None = None) -> Path:
    """A complete bundle whose engine runs on this machine."""
    chosen = backend("onnxruntime")
    requires = chosen.requires()
    fingerprint = chosen.fingerprint(requires)
    engine_path = f"engines/{fingerprint}/engine"
    manifest = manifest or tiny_manifest()
    entry = EngineEntry(fingerprint, "onnxruntime", engine_path, SETTINGS, requires)
    files = {
        "model.onnx": tiny_model(),
        engine_path: chosen.compile(tiny_model(), SETTINGS),
        "golden.npz": (golden or tiny_golden()).to_bytes(),
    }
    write_bundle(path, replace(manifest, engines=(entry,)), files)
    return path
