"""How the engines of a plan are compiled and opened: on the target's own backend, or on its twin here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginewright.compression import Sparsify
from enginewright.errors import UsageError
from enginewright.graph.dialects import DIALECTS
from enginewright.recipe import Recipe
from enginewright.target import Target
from enginewright_runtime.canonical import Json

__all__ = ["DLA_BATCH", "TWIN_TOLERANCE", "EngineSettings", "own_settings", "twin_settings", "typed_by_the_network"]

# The batches that a TensorRT engine takes, and the one that its kernels are chosen for: a camera gives one image, and
# an evaluation on the device many.
_BATCHES: tuple[int, int, int] = (1, 1, 32)
DLA_BATCH = 1  # a DLA runs fixed shapes alone

_TYPED_FROM = 11  # TensorRT has no flags of precision from here on

# How far the device's outputs may be from its twin's, as a share of the largest: it sums in another order and keeps what is
# not quantized in float16, so int8 values are rounded otherwise here and there.
TWIN_TOLERANCE = 0.05


@dataclass(frozen=True)
class EngineSettings:
    """The backend, and its settings for float networks and for those with Q/DQ pairs."""

    backend: str
    plain: Mapping[str, Json]
    quantized: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        return {"backend": self.backend, "settings": dict(self.plain), "quantized_settings": dict(self.quantized)}


def own_settings(recipe: Recipe, target: Target, dialect: str) -> EngineSettings:
    """On the target's own backend. Raises UsageError where a TensorRT engine could not know the sizes of an input."""
    settings = target.engine_settings()
    if target.on_gpu:
        settings.update(sizes=_sizes(recipe, target))
        if any(isinstance(step, Sparsify) for step in recipe.compress):
            settings["sparse"] = True
        return EngineSettings(target.backend, settings, settings)
    if target.backend != "onnxruntime":  # whose optimizers the dialect's settings are for
        return EngineSettings(target.backend, settings, settings)
    return EngineSettings(target.backend, settings, {**settings, **_of_the_dialect(dialect)})


def twin_settings(target: Target, dialect: str) -> EngineSettings:
    """On ONNX Runtime here, so that it computes what the target will."""
    settings: dict[str, Json] = {"threads": target.threads}
    return EngineSettings("onnxruntime", settings, {**settings, **_of_the_dialect(dialect)})


def typed_by_the_network(target: Target, requires: Mapping[str, str]) -> bool:
    """Whether what compiles the target's engine goes by the network's types, and not by flags: TensorRT from 11 on, and
    TensorRT-RTX. `requires`: what an engine made here needs; where that is not known, the version that the target pins.
    """
    if target.backend == "tensorrt_rtx":
        return True
    version = requires.get("tensorrt") or target.tensorrt or ""
    return target.on_gpu and version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= _TYPED_FROM


def _of_the_dialect(name: str) -> dict[str, Json]:
    dialect = DIALECTS[name]
    return {"disable": list(dialect.disabled_optimizers), "config": dict(dialect.session_config)}


def _sizes(recipe: Recipe, target: Target) -> dict[str, Json]:
    """What each free dimension may be, by its name: a batch is known, anything else must be written."""
    sizes: dict[str, Json] = {}
    for name, spec in recipe.model.inputs.items():
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and axis == 0:
                sizes[size] = list(_BATCHES) if target.dla_core is None else [DLA_BATCH] * 3
            elif isinstance(size, str) and size not in sizes:
                raise UsageError(
                    f"the dimension '{size}' of the input '{name}' is free, and a TensorRT engine ({target.name}) is built "
                    "for known sizes",
                    hint=f"write a number for it in model.inputs.{name}.shape",
                )
    return sizes
