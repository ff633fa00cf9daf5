"""How an engine of TensorRT is built and opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import EngineError
from enginewright_runtime.json_field import JsonField

__all__ = ["Settings", "Sizes"]

_SETTINGS = {
    "sizes",
    "precision",
    "workspace_mib",
    "tactic_shared_memory_kib",
    "optimization_level",
    "dla_core",
    "sparse",
    "compute_capability",
    "cuda_graph",
}
_PRECISIONS = ("float16", "float32")


@dataclass(frozen=True)
class Sizes:
    """The sizes that a free dimension may have, and the one that the engine is tuned for."""

    least: int
    usual: int
    most: int


@dataclass(frozen=True)
class Settings:
    """How an engine is built and opened; None leaves a choice to TensorRT.

    sizes: of each free dimension of the inputs, by its name. precision: of the layers that are not quantized, where
    the library lets flags decide it; in a strongly typed network its own types do. dla_core: build for that deep
    learning accelerator, with the GPU for what it cannot run. sparse: let kernels skip pairs of zero weights.
    compute_capability: what to build for, where the library builds ahead of time. cuda_graph: capture an inference
    into a CUDA graph, and launch that.
    """

    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    precision: str = "float16"
    workspace_mib: int | None = None
    tactic_shared_memory_kib: int | None = None
    optimization_level: int | None = None
    dla_core: int | None = None
    sparse: bool = False
    compute_capability: str | None = None
    cuda_graph: bool = False

    @classmethod
    def parse(cls, settings: Mapping[str, Json]) -> Settings:
        """Read settings; an unknown key or a wrong type raises EngineError."""
        document = JsonField(settings, "tensorrt settings", EngineError)
        fields = document.fields()
        if unknown := sorted(set(settings) - _SETTINGS):
            known = ", ".join(sorted(_SETTINGS))
            raise EngineError(f"tensorrt settings: unknown key {unknown[0]!r}; known: {known}")

        def number(name: str, *, least: int) -> int | None:
            return fields[name].integer(least=least) if name in fields else None

        precision = fields["precision"].text() if "precision" in fields else "float16"
        if precision not in _PRECISIONS:
            raise fields["precision"].refuse(f"must be one of {', '.join(_PRECISIONS)}")
        return cls(
            sizes=_sizes(fields["sizes"]) if "sizes" in fields else {},
            precision=precision,
            workspace_mib=number("workspace_mib", least=1),
            tactic_shared_memory_kib=number("tactic_shared_memory_kib", least=1),
            optimization_level=number("optimization_level", least=0),
            dla_core=number("dla_core", least=0),
            sparse=fields["sparse"].boolean() if "sparse" in fields else False,
            compute_capability=fields["compute_capability"].text(pattern=r"\d+\.\d", rule="must be such as 8.7")
            if "compute_capability" in fields
            else None,
            cuda_graph=fields["cuda_graph"].boolean() if "cuda_graph" in fields else False,
        )


def _sizes(document: JsonField) -> dict[str, Sizes]:
    found = {}
    for name, item in document.fields().items():
        sizes = item.integers()
        if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
            raise item.refuse("must be the smallest, the usual and the largest size, in that order")
        found[name] = Sizes(*sizes)
    return found
