"""The stages of a build, as one table: what each consumes and produces, and whose versions its result depends on.

Nothing heavy is imported here, so that planning stays quick: `Stage.module` is imported in the process that runs the
step. Each of those modules has one function `run(step: RunningStep) -> Outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["STAGES", "Stage"]


@dataclass(frozen=True)
class Stage:
    """What the planner must know of a stage.

    `consumes` and `optional` map an input's name to the artifact kinds that it accepts; `produces` maps an output's
    name to its kind. `tools` are the distributions whose versions enter the step's key. `keeps_history`: the result
    tells the chain of steps before it, so their keys enter its own.
    """

    version: int  # raised whenever the same inputs would give another result
    module: str
    produces: Mapping[str, str]
    consumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    keeps_history: bool = False


def _module(name: str) -> str:
    return f"enginewright.stages.{name}"


_TORCH = ("torch", "numpy", "safetensors")
_ENGINE: Mapping[str, tuple[str, ...]] = {"engine": ("engine",), "entry": ("engine-entry",)}
_CURVES = {f"curve-{number}": ("curve",) for number in range(1, 1000)}  # of each training; no recipe has so many
_DECIDED = {"precision": ("precision",), "blocks": ("blocks",), "scales": ("scales",), **_CURVES}
_PACKED = {"bundle": "bundle", "report_html": "report", "report_markdown": "report", "result": "result"}

STAGES: Mapping[str, Stage] = {
    "import": Stage(2, _module("import_checkpoint"), {"checkpoint": "checkpoint"}, tools=_TORCH),
    "import_onnx": Stage(1, _module("import_onnx"), {"exported": "exported"}, tools=("onnx",)),
    "prune": Stage(
        2,
        _module("prune"),
        {"checkpoint": "checkpoint"},
        consumes={"checkpoint": ("checkpoint",)},
        tools=(*_TORCH, "torch-pruning"),
    ),
    "prune_blocks": Stage(
        1,
        _module("prune_blocks"),
        {"checkpoint": "checkpoint", "blocks": "blocks"},
        consumes={"checkpoint": ("checkpoint",)},
        tools=(*_TORCH, "onnx", "onnxscript", "onnxruntime", "enginewright-runtime"),
    ),
    "factorize": Stage(
        1, _module("factorize"), {"checkpoint": "checkpoint"}, consumes={"checkpoint": ("checkpoint",)}, tools=_TORCH
    ),
    "sparsify": Stage(
        1, _module("sparsify"), {"checkpoint": "checkpoint"}, consumes={"checkpoint": ("checkpoint",)}, tools=_TORCH
    ),
    "recalibrate": Stage(
        1, _module("recalibrate"), {"checkpoint": "checkpoint"}, consumes={"checkpoint": ("checkpoint",)}, tools=_TORCH
    ),
    "student": Stage(
        1, _module("student"), {"checkpoint": "checkpoint"}, optional={"teacher": ("checkpoint",)}, tools=_TORCH
    ),
    "recover": Stage(
        2,
        _module("recover"),
        {"checkpoint": "checkpoint", "curve": "curve", "ranges": "module-ranges"},
        consumes={"checkpoint": ("checkpoint",)},
        optional={"teacher": ("checkpoint",)},
        tools=_TORCH,
    ),
    "export": Stage(
        1,
        _module("export"),
        {"exported": "exported"},
        consumes={"checkpoint": ("checkpoint",)},
        tools=(*_TORCH, "onnx", "onnxscript", "onnxruntime"),
    ),
    "simplify": Stage(
        1,
        _module("simplify"),
        {"network": "network", "layers": "layers"},
        consumes={"exported": ("exported",)},
        tools=("onnx", "onnxsim", "onnxruntime", "numpy"),
    ),
    "equalize": Stage(
        1,
        _module("equalize"),
        {"network": "network", "layers": "layers"},
        consumes={"network": ("network",)},
        tools=("onnx", "onnxruntime", "numpy"),
    ),
    "calibrate": Stage(
        3,
        _module("calibrate"),
        {"scales": "scales", "samples": "sample-digests"},
        consumes={"network": ("network",)},
        optional={"learned": ("module-ranges",)},
        tools=("onnx", "onnxruntime", "numpy"),
    ),
    "assign_precision": Stage(
        2,
        _module("assign_precision"),
        {"precision": "precision"},
        consumes={"network": ("network",), "scales": ("scales",)},
        tools=("onnx", "onnxruntime", "numpy", "enginewright-runtime"),
    ),
    "quantize": Stage(
        3,
        _module("quantize"),
        {"quantized": "quantized", "layers": "layers"},
        consumes={"network": ("network",), "scales": ("scales",)},
        optional={"precision": ("precision",)},
        tools=("onnx", "onnxruntime", "numpy"),
    ),
    "compile": Stage(
        1,
        _module("compile"),
        {"engine": "engine", "entry": "engine-entry"},
        consumes={"network": ("network", "quantized", "half")},
        tools=("enginewright-runtime",),  # the backend's own version is in the parameter `requires`
    ),
    "evaluate": Stage(
        2,
        _module("evaluate"),
        {"evaluation": "evaluation", "outputs": "outputs", "golden": "golden"},
        consumes=_ENGINE,
        optional={"reference_outputs": ("outputs",), "calibration_samples": ("sample-digests",)},
        tools=("numpy", "enginewright-runtime"),
    ),
    "measure": Stage(
        4,
        _module("measure"),
        {"measurement": "measurement", "measurement_evicted": "measurement", "engine_layers": "engine-layers"},
        consumes={
            **_ENGINE,
            "reference_engine": ("engine",),
            "reference_entry": ("engine-entry",),
            "golden": ("golden",),
        },
        tools=("numpy", "enginewright-runtime"),
    ),
    "half": Stage(
        1, _module("half"), {"network": "half"}, consumes={"network": ("network", "quantized")}, tools=("onnx", "numpy")
    ),
    "check": Stage(
        2,
        _module("check"),
        {"structure": "structure"},
        consumes={"network": ("network", "quantized", "half"), "layers": ("layers",)},
        optional={"unquantized": ("half",)},
        tools=("enginewright-runtime",),  # TensorRT-RTX's own version is in the parameter `checker`
    ),
    "pack_pending": Stage(
        3,
        _module("pack_pending"),
        _PACKED,
        consumes={
            "network": ("network", "quantized"),
            "layers": ("layers",),
            "evaluation": ("evaluation",),
            "reference_layers": ("layers",),
            "reference_evaluation": ("evaluation",),
            "golden": ("golden",),
            "twin": ("engine",),
            "twin_entry": ("engine-entry",),
        },
        optional={
            **_ENGINE,
            "half": ("half",),
            "unquantized": ("half",),
            "calibrated": ("network",),
            "structure": ("structure",),
            **_DECIDED,
        },
        tools=("numpy", "jinja2", "enginewright", "enginewright-runtime"),
        keeps_history=True,
    ),
    "pack": Stage(
        6,
        _module("pack"),
        _PACKED,
        consumes={
            **_ENGINE,
            "network": ("network", "quantized"),
            "layers": ("layers",),
            "evaluation": ("evaluation",),
            "measurement": ("measurement",),
            "measurement_evicted": ("measurement",),
            "engine_layers": ("engine-layers",),
            "reference_engine": ("engine",),
            "reference_layers": ("layers",),
            "reference_evaluation": ("evaluation",),
            "golden": ("golden",),
        },
        optional=_DECIDED,
        tools=("numpy", "jinja2", "enginewright", "enginewright-runtime"),
        keeps_history=True,
    ),
}
