"""Check: NVIDIA's own parser and builder take the network, and what is int8 in it is int8 in their engine.

TensorRT-RTX builds without a GPU. Its engine is not the one that ships: it proves the structure, and nothing of the speed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from enginewright.errors import StepFailed
from enginewright.running import Outcome, RunningStep
from enginewright_runtime.backends.tensorrt import TensorRT
from enginewright_runtime.backends.tensorrt_rtx import BACKEND as RTX
from enginewright_runtime.tensorrt.engine_layers import layers_from_log, layers_to_json
from enginewright_runtime.tensorrt.library import installed_version, load

__all__ = ["nearest_capability", "run"]

FORMAT = 1  # of the artifact. 1: the first.

_TURING = 75


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    if (version := installed_version("tensorrt_rtx")) != parameters["checker"]:
        raise StepFailed(
            f"the plan wants TensorRT-RTX {parameters['checker']}, and {version} is installed", hint="build again"
        )
    known = (name[2:] for name in dir(load("tensorrt_rtx").trt.ComputeCapability) if name.startswith("SM"))
    capability = nearest_capability(parameters["compute_capability"], known)
    checker: TensorRT = RTX
    step.say(f"TensorRT-RTX {version} builds it for compute capability {capability}")
    settings = {"compute_capability": capability, "sizes": parameters["sizes"]}
    built = checker.build(step.inputs["network"].read_bytes(), settings, on_phase=None)
    if "unquantized" in step.inputs:  # what int8 is compared with on the device must be taken too
        checker.build(step.inputs["unquantized"].read_bytes(), settings)
    found = layers_from_log(line for _, line in built.log)
    in_engine = {name for layer in found if layer.multiplies and layer.precision == "int8" for name in layer.nodes}
    wanted = [
        layer["name"]
        for layer in json.loads(step.inputs["layers"].read_bytes())["layers"]
        if layer["precision"] == "int8"
    ]
    lost = sorted(set(wanted) - in_engine)
    if lost:
        step.warn(f"TensorRT-RTX computes these int8 layers in float: {', '.join(lost)}")
    structure = {
        "format": FORMAT,
        "library": f"TensorRT-RTX {version}",
        "compute_capability": capability,
        "int8_layers": sorted(set(wanted) & in_engine),
        "not_int8": lost,
        "reformats": sum(layer.reformat for layer in found),
        "engine_layers": layers_to_json(found)["layers"],
    }
    step.output("structure").write_text(json.dumps(structure))
    return Outcome({"int8_layers": len(wanted) - len(lost), "not_int8": len(lost), "engine_layers": len(found)})


def nearest_capability(wanted: str, known: Iterable[str]) -> str:
    """The compute capability to check with: that of the target, or else the newest before it, or the oldest of all.

    `known` are written as in SM86. Turing (7.5) is left out: TensorRT-RTX multiplies neither in int8 nor in float32 there,
    and TensorRT does both.

    >>> nearest_capability("8.7", ["75", "80", "86", "89", "120"]), nearest_capability("7.5", ["75", "80"])
    ('8.6', '8.0')
    """
    numbers = sorted(number for number in map(int, known) if number > _TURING)
    limit = int(wanted.replace(".", ""))
    chosen = max((number for number in numbers if number <= limit), default=numbers[0])
    return f"{chosen // 10}.{chosen % 10}"
