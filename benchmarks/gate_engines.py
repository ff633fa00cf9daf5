"""Bundles of networks whose work is known, for the benchmarks of the gate, and a process that burns a core."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from enginewright_runtime.backends import backend
from enginewright_runtime.bundle import write_bundle
from enginewright_runtime.golden import Golden
from enginewright_runtime.manifest import EngineEntry, Manifest, TensorSpec

__all__ = ["LAYERS", "burning", "make_bundle"]

LAYERS = 40  # equal layers, so that two more are 5 % more work
_ROWS, _WIDTH = 64, 256
_SETTINGS = {"threads": 1}


def make_bundle(path: Path, *, layers: int, name: str) -> Path:
    """A chain of `layers` equal products of matrices. `name` stands in the network and changes nothing but its bytes."""
    chosen = backend("onnxruntime")
    requires = chosen.requires()
    fingerprint = chosen.fingerprint(requires)
    network = _network(layers, name)
    entry = EngineEntry(fingerprint, "onnxruntime", f"engines/{fingerprint}/engine", _SETTINGS, requires)
    manifest = Manifest(
        name="chain",
        target="cpu",
        inputs=(TensorSpec("x", (_ROWS, _WIDTH), "float32"),),
        outputs=(TensorSpec("y", (_ROWS, _WIDTH), "float32"),),
        accuracy={"reference": 1.0, "engine": 1.0},
    )
    inputs = {"x": np.random.default_rng(0).standard_normal((_ROWS, _WIDTH)).astype(np.float32)}
    engine = chosen.compile(network, _SETTINGS)
    opened = chosen.open(engine, _SETTINGS)
    golden = Golden(inputs, opened.run(inputs), {"y": np.array(1e-3, np.float32)})
    opened.close()
    files = {"model.onnx": network, entry.path: engine, "golden.npz": golden.to_bytes()}
    write_bundle(path, replace(manifest, engines=(entry,)), files)
    return path


@contextmanager
def burning(*, processes: int = 1) -> Iterator[None]:
    """Processes that compute without end, one core each, for as long as the context lasts."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _network(layers: int, name: str) -> bytes:
    weights = np.linalg.qr(np.random.default_rng(1).standard_normal((_WIDTH, _WIDTH)))[0].astype(np.float32)
    values = ["x", *(f"layer{index}" for index in range(layers - 1)), "y"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [one, "weights"], [other]) for one, other in pairwise(values)],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_ROWS, _WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, _WIDTH])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
