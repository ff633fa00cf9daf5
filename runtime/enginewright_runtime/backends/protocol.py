"""What a backend must do: compile, describe and open one kind of engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from enginewright_runtime.canonical import Json
from enginewright_runtime.manifest import TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"


class OpenEngine(Protocol):
    """An engine that is loaded and ready."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the engine's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the engine's order."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference. The inputs fit `self.inputs` and are C-contiguous: the caller checks. Raises EngineError."""

    def gpu_bytes(self) -> int:
        """The memory that it has taken on a GPU, beyond what the process has resident."""

    def close(self) -> None:
        """Free the engine; calling it again does nothing."""


class Backend(Protocol):
    """One kind of engine.

    Its library is imported when it is first needed, and BackendMissing names the extra to install.
    """

    @property
    def name(self) -> str:
        """The name that recipes, targets and manifests use."""

    @property
    def extra(self) -> str:
        """The extra of enginewright-runtime that installs the library."""

    def requires(self, settings: Mapping[str, Json] | None = None) -> dict[str, str]:
        """What an engine compiled on this machine needs to run elsewhere; under these settings, where they decide it."""

    def fingerprint(self, requires: Mapping[str, str]) -> str:
        """A readable name for those needs, safe in a path; engines with the same needs have the same one."""

    def misfit(self, requires: Mapping[str, str]) -> str:
        """Why an engine with these needs does not run on this machine, as a clause; empty if it does."""

    def compile(self, model: bytes, settings: Mapping[str, Json]) -> bytes:
        """Compile an ONNX model into an engine. Raises EngineError."""

    def open(self, engine: bytes, settings: Mapping[str, Json]) -> OpenEngine:
        """Load an engine that was verified. Raises EngineError."""
