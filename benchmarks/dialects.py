"""What int8 alone costs in each dialect: the accuracy of the same ranges in the graph that each backend gets.

    python benchmarks/dialects.py [RECIPE]

The recipe is built without pruning (--set macs=0), up to its calibration; then every dialect of ONNX Runtime and of
TensorRT is written from these ranges with every layer in int8, and evaluated on the whole test split. The dialects for
processors run on this one's integer kernels: 7-bit weights cannot saturate on one without VNNI, so the figure holds
there, too. That of TensorRT runs with quantized kernels disabled, which computes what a GPU computes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import onnx
from side_by_side import accuracies, build_up_to

from enginewright.build import prepare
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.qdq import quantize
from enginewright.graph.ranges import Scales
from enginewright.project import find_project
from enginewright.steps import OutputOf
from enginewright_runtime.backends import backend
from enginewright_runtime.measure import EngineToMeasure

FLOAT = "float"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="signs")
    recipe = parser.parse_args().recipe
    job = prepare(find_project(Path.cwd()), recipe, "cpu", settings={"macs": 0})
    built = build_up_to(job, "calibrate")
    network = onnx.load(built.input_of("calibrate", "network"))
    scales = Scales.from_json(json.loads(built.path(OutputOf("calibrate", "scales")).read_bytes()))
    settings = job.target.engine_settings()
    with tempfile.TemporaryDirectory() as folder:

        def compiled(name: str, model: onnx.ModelProto, **more: object) -> EngineToMeasure:
            path = Path(folder, name)
            path.write_bytes(backend("onnxruntime").compile(model.SerializeToString(), {**settings, **more}))
            return EngineToMeasure(path, "onnxruntime", {**settings, **more})

        engines = {FLOAT: compiled(FLOAT, network)}
        for name, dialect in DIALECTS.items():
            if not name.startswith("openvino"):  # whose kernels are not ONNX Runtime's
                engines[name] = compiled(
                    name,
                    quantize(network, scales, dialect),
                    disable=list(dialect.disabled_optimizers),
                    config=dict(dialect.session_config),
                )
        found = accuracies(engines, job, reference=FLOAT)
    for name, accuracy in found.items():
        print(f"{name:<24}{accuracy.value:.2%}  {accuracy.points()} points")
    print(f"{recipe} without pruning, every layer in int8, ranges by {scales.method}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
