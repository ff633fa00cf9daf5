"""Shows on an emulated 64-bit ARM Debian that the runtime's wheel installs and runs there.

``python -m tests.aarch64.prove FOLDER`` makes the machine in FOLDER (kept for the next time), installs the wheel that
it builds with numpy, onnxruntime and cryptography for ARM from the package index, compiles a quantized residual network
of the dialect onnxruntime-arm there, packs, signs, installs and runs it, and compares the outputs with those that the
float arithmetic of the same Q/DQ graph gives on this computer. Ends with 0; with 4 and the reason where this computer
cannot emulate one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from tests.aarch64.machine import Machine, Unable
from tests.builder.graph.small_networks import conv, conv_constants, inputs, network
from tests.runtime.tiny_bundle import make_bundle

from enginewright.graph.dialects import DIALECTS
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright_runtime.backends import backend
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.golden import Golden

REPOSITORY = Path(__file__).parents[2]
DIALECT = DIALECTS["onnxruntime-arm"]
# Of the last scale: a sum that integer arithmetic rounds up may be one that float arithmetic rounds down.
TOLERANCE_STEPS = 1
INTEGER_OPERATORS = {"QLinearConv", "QLinearAdd", "QGemm"}
_PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_PYTHON = "3.11"  # Debian bookworm's


def prove(folder: Path) -> dict[str, Any]:
    """What was found on the emulated machine. Raises Unable, CalledProcessError, AssertionError."""
    machine = Machine(folder)
    machine.make()
    work = machine.root / "proof"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    _write_network(work)
    wheel = _wheels(folder / "wheels")
    shutil.copytree(folder / "wheels", work / "wheels")
    shutil.copy(Path(__file__).with_name("inside.py"), work)
    python = "/opt/enginewright/bin/python"
    print("installing the wheels there ...", flush=True)
    machine.run(["python3", "-m", "venv", "--clear", "/opt/enginewright"])
    options = ["--no-index", "--find-links", "/proof/wheels", "--disable-pip-version-check"]
    machine.run([python, "-m", "pip", "install", *options, f"/proof/wheels/{wheel}[onnxruntime,signing]"])
    print("compiling, packing, installing and running there ...", flush=True)
    found: dict[str, Any] = json.loads(machine.run([python, "/proof/inside.py", "/proof"]).splitlines()[-1])
    bundle = read_bundle(work / "residual-cpu-arm.ewb")
    compiled = onnx.load_from_string(bundle.read(bundle.manifest.engines[0].path))
    found["operators"] = [node.op_type for node in compiled.graph.node]
    found["wheel_bytes"] = (folder / "wheels" / wheel).stat().st_size
    return found


def check(found: dict[str, Any]) -> None:
    """Raises AssertionError where the machine was none, or the outputs are not the golden ones."""
    assert found["machine"] == "aarch64", found
    assert found["wheel_bytes"] < 200_000, found
    assert set(found["operators"]) >= INTEGER_OPERATORS, found
    assert found["run_agrees"], found
    assert all(output["agrees"] for output in found["outputs"]), found
    assert "it was made for x86_64, and this machine is aarch64" in found["x86_bundle"], found


def _write_network(work: Path) -> None:
    """A quantized residual network, and what its float arithmetic gives for sixteen inputs."""
    nodes = [
        conv("first", "x", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("second", "b", "c"),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    random = np.random.default_rng(5)
    head = {"head.weight": random.standard_normal((10, 16)).astype(np.float32), "head.bias": np.zeros(10, np.float32)}
    float_network = network(
        nodes, {**conv_constants("first", 16, 16), **conv_constants("second", 16, 16, seed=1), **head}
    )
    batch = inputs(float_network)
    scales = calibrate(float_network, tensors_to_calibrate(float_network), [batch], method="percentile")
    model: bytes = quantize(float_network, scales, DIALECT).SerializeToString()
    settings = {"threads": 1, "disable": list(DIALECT.disabled_optimizers), "config": dict(DIALECT.session_config)}
    as_written = {**settings, "config": {"session.disable_quant_qdq": "1"}}
    here = backend("onnxruntime")
    engine = here.open(here.compile(model, as_written), as_written)
    outputs = engine.run(batch)
    engine.close()
    step = (scales.ranges["y"].high - scales.ranges["y"].low) / 255
    golden = Golden(batch, outputs, {"y": np.array(TOLERANCE_STEPS * step)})
    onnx.checker.check_model(onnx.load_from_string(model))
    (work / "model.onnx").write_bytes(model)
    (work / "golden.npz").write_bytes(golden.to_bytes())
    (work / "facts.json").write_text(json.dumps({"settings": settings, "step": step}))
    make_bundle(work / "x86.ewb")


def _wheels(folder: Path) -> str:
    """Put the runtime's wheel, made here, and those of its extras for ARM into `folder`; returns the first's name."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = folder.parent / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(REPOSITORY / "runtime", source, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)], check=True)
    platforms = [part for name in _PLATFORMS for part in ("--platform", f"{name}_aarch64")]
    wanted = [f"{name}=={metadata.version(name)}" for name in ("numpy", "onnxruntime", "cryptography")]
    options = ["--only-binary=:all:", "--python-version", _PYTHON, *platforms, "-d", str(folder)]
    subprocess.run([*pip, "download", *options, *wanted], check=True)
    [wheel] = [path.name for path in folder.glob("enginewright_runtime-*.whl")]
    return wheel


if __name__ == "__main__":
    try:
        proven = prove(Path(sys.argv[1]))
    except Unable as unable:
        print(f"skipped: {unable}")
        sys.exit(4)
    print(json.dumps(proven, indent=1))
    check(proven)
    print("proven")
