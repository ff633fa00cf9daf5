"""Finding the installed TensorRT, and what its version can do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from enginewright_runtime.errors import BackendMissing, EngineError

__all__ = ["KINDS", "Kind", "Library", "installed_version", "load"]


@dataclass(frozen=True)
class Kind:
    """One of NVIDIA's two libraries: the modules that may hold it, and the distributions that bring them."""

    name: str
    title: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    magic: bytes  # how its engines begin
    hint: str


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "tensorrt",
            "TensorRT",
            ("tensorrt",),
            ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
            b"ftrt",
            "on a Jetson it comes with JetPack (apt install python3-libnvinfer); elsewhere: pip install tensorrt",
        ),
        Kind(
            "tensorrt_rtx",
            "TensorRT-RTX",
            ("tensorrt_rtx", "tensorrt_rtx_bindings"),
            ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
            b"vtrt",
            "pip install 'enginewright-runtime[tensorrt-rtx]'",
        ),
    )
}


@dataclass(frozen=True)
class Library:
    """The imported module `trt`, and what its version can do."""

    kind: Kind
    trt: Any  # the bindings carry no types
    version: str

    @property
    def typed_by_flags(self) -> bool:
        """Whether float16 and int8 are allowed by flags of the builder, as up to 10.x, and not by the network's types."""
        return hasattr(self.trt.BuilderFlag, "FP16")

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for a compute capability that this machine need not have."""
        return hasattr(self.trt, "ComputeCapability") and hasattr(self.trt.IBuilderConfig, "set_compute_capability")

    def member(self, enumeration: str, name: str) -> Any:
        """A member of an enumeration, by its name; raises EngineError where this version lacks it."""
        found = getattr(getattr(self.trt, enumeration, None), name, None)
        if found is None:
            raise EngineError(f"{self.kind.title} {self.version} has no {enumeration}.{name}")
        return found


def load(name: str) -> Library:
    """Import `tensorrt` or `tensorrt_rtx`. Raises BackendMissing."""
    kind = KINDS[name]
    reasons = []
    for module in kind.modules:
        try:
            trt = import_module(module)
        except (ImportError, OSError) as error:
            if not (isinstance(error, ModuleNotFoundError) and error.name == module):
                reasons.append(str(error))
        else:
            return Library(kind, trt, _version_of(trt) or installed_version(name))
    broken = f"cannot be imported: {'; '.join(reasons)}" if reasons else "is not installed"
    raise BackendMissing(f"{kind.title} {broken}", hint=kind.hint)


def installed_version(name: str) -> str:
    """The version that is installed, without importing it where its distribution says. Raises BackendMissing."""
    for distribution in KINDS[name].distributions:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return load(name).version


def _version_of(trt: ModuleType) -> str:
    return str(getattr(trt, "__version__", ""))
