"""Engines that ONNX Runtime runs on the CPU.

The engine is the graph that ONNX Runtime optimized, saved as ONNX. It is opened with graph optimization off, so that
what was compiled and evaluated is what runs. Such a graph is bound to the version that saved it, to the machine's
architecture, and to the instruction sets that its layouts and kernels were chosen for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from enginewright_runtime.backends.protocol import Array, OpenEngine
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import BackendMissing, EngineError
from enginewright_runtime.host import instruction_sets, machine
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.manifest import TensorSpec

_OPTIMIZATION = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_SETTINGS = {"threads", "optimization", "disable", "config"}

# What ONNX Runtime's optimized graphs depend on. The first list decides how numbers are computed: without VNNI, 8-bit
# products saturate. An engine needs the strongest of its line, not all that its builder's machine had, so that it
# runs on every machine that computes the same.
_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "i8mm", "dotprod")
# With AVX-512, convolutions are laid out in blocks of 16 channels, without it in blocks of 8: neither reads the
# other's weights.
_LAYOUTS = ("avx2", "avx512f")

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Settings:
    """How an engine is compiled and opened.

    threads: for the work inside one operator. optimization: none, basic, extended or all. disable: optimizers to
    leave out, by ONNX Runtime's names. config: ONNX Runtime's session configuration entries, such as
    session.intra_op.allow_spinning.
    """

    threads: int = 1
    optimization: str = "all"
    disable: tuple[str, ...] = ()
    config: Mapping[str, str] | None = None

    @classmethod
    def parse(cls, settings: Mapping[str, Json]) -> Settings:
        """Read settings; an unknown key or a wrong type raises EngineError."""
        document = JsonField(settings, "onnxruntime settings", EngineError)
        if unknown := sorted(set(settings) - _SETTINGS):
            known = ", ".join(sorted(_SETTINGS))
            raise EngineError(f"onnxruntime settings: unknown key {unknown[0]!r}; known: {known}")
        fields = document.fields()
        optimization = fields["optimization"].text() if "optimization" in fields else "all"
        if optimization not in _OPTIMIZATION:
            raise fields["optimization"].refuse(f"must be one of {', '.join(_OPTIMIZATION)}")
        return cls(
            threads=fields["threads"].integer(least=1) if "threads" in fields else 1,
            optimization=optimization,
            disable=tuple(item.text() for item in fields["disable"].items()) if "disable" in fields else (),
            config=fields["config"].texts() if "config" in fields else {},
        )


class OnnxRuntimeEngine:
    """An ONNX Runtime session, ready to run. Several threads may run it at once."""

    def __init__(self, session: Any) -> None:
        self.inputs = tuple(_tensor_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor_spec(node) for node in session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        # InferenceSession.run is Python around a compiled session: it looks at the names once more and falls back to
        # other providers, which is done before or never wanted here, and takes 2 microseconds a call.
        self._compiled: Any = getattr(session, "_sess", session)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference on the CPU; see OpenEngine."""
        compiled = self._compiled  # read once: another thread may close the engine meanwhile
        if compiled is None:
            raise EngineError("the engine is closed")
        try:
            return dict(zip(self._output_names, compiled.run(self._output_names, inputs, None), strict=True))
        except Exception as error:
            raise _typed("could not run the engine", error) from error

    def gpu_bytes(self) -> int:
        """None; see OpenEngine."""
        return 0

    def close(self) -> None:
        """Free the session; see OpenEngine."""
        self._compiled = None


class OnnxRuntime:
    """The backend `onnxruntime`; see Backend."""

    name = "onnxruntime"
    extra = "onnxruntime"

    def requires(self, settings: Mapping[str, Json] | None = None) -> dict[str, str]:
        """The version, the architecture and the instruction sets that an optimized graph is bound to."""
        return {
            "onnxruntime": _installed_version(),
            "machine": machine(),
            "instructions": ",".join(_relevant(instruction_sets())),
        }

    def fingerprint(self, requires: Mapping[str, str]) -> str:
        """Such as onnxruntime-1.31.1-x86_64-avx512_vnni: the strongest instruction set stands for its line."""
        strongest = [name for name in requires.get("instructions", "").split(",") if name][-1:]
        return "-".join(["onnxruntime", requires["onnxruntime"], requires["machine"], *strongest])

    def misfit(self, requires: Mapping[str, str]) -> str:
        """Why an engine with these needs does not run here; see Backend. Raises BackendMissing."""
        if unknown := sorted(set(requires) - {"onnxruntime", "machine", "instructions"}):
            return f"it requires {unknown[0]!r}, which this runtime does not know"
        if requires.get("machine") != machine():
            return f"it was made for {requires.get('machine')}, and this machine is {machine()}"
        needed = {name for name in requires.get("instructions", "").split(",") if name}
        present = instruction_sets()
        if lacking := sorted(needed.difference(present)):
            return f"it needs the instruction sets {', '.join(lacking)}, and this processor lacks them"
        if "avx512f" in present and "avx512f" not in needed:
            return "its layout is for processors without AVX-512, and this one has it"
        wanted, installed = requires.get("onnxruntime"), _installed_version()
        if wanted != installed:
            return f"it needs onnxruntime {wanted}, and {installed} is installed (pip install onnxruntime=={wanted})"
        return ""

    def compile(self, model: bytes, settings: Mapping[str, Json]) -> bytes:
        """Optimize an ONNX model for this machine and return the optimized graph's bytes; see Backend."""
        parsed = Settings.parse(settings)
        library = _library()
        with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
            optimized = Path(folder) / "engine"
            options = _options(library, parsed, parsed.optimization)
            options.optimized_model_filepath = str(optimized)
            _session(library, model, options, parsed.disable, "could not compile the model")
            return optimized.read_bytes()

    def open(self, engine: bytes, settings: Mapping[str, Json]) -> OpenEngine:
        """Load an optimized graph as it is; see Backend."""
        parsed = Settings.parse(settings)
        library = _library()
        options = _options(library, parsed, "none")
        return OnnxRuntimeEngine(_session(library, engine, options, (), "could not open the engine"))


BACKEND = OnnxRuntime()


def _relevant(present: tuple[str, ...]) -> list[str]:
    """Of the instruction sets of this machine, those that an engine made on it needs, the strongest last."""
    layouts = [name for name in _LAYOUTS if name in present]
    dot_products = [name for name in _DOT_PRODUCTS if name in present]
    return layouts + dot_products[:1]


def _installed_version() -> str:
    """The version that is installed, without importing it: planning a build and choosing an engine need no more."""
    for name in _DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise _missing("onnxruntime is not installed")


def _library() -> ModuleType:
    # Official builds report home unless they are told not to before they are loaded. A vehicle must not, and neither
    # must a process that is being timed. A user who wants it sets the variable to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise _missing(f"onnxruntime cannot be imported: {error}") from error


def _missing(message: str) -> BackendMissing:
    return BackendMissing(message, hint="pip install 'enginewright-runtime[onnxruntime]'")


# The session's type is the library's own, which has no types to import.
def _options(library: ModuleType, settings: Settings, optimization: str) -> Any:
    options = library.SessionOptions()
    options.graph_optimization_level = getattr(library.GraphOptimizationLevel, f"ORT_{_OPTIMIZATION[optimization]}")
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: that an optimized graph fits one kind of machine is ours to check
    for key, value in (settings.config or {}).items():
        options.add_session_config_entry(key, value)
    # ONNX may name files that hold its weights, and the library would look for them from the working folder on. A
    # bundle is whole, or it could take in any file that its user may read: no file is below the null device.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options


def _session(library: ModuleType, model: bytes, options: Any, disable: tuple[str, ...], failure: str) -> Any:
    try:
        return library.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disable)
        )
    except Exception as error:
        raise _typed(failure, error) from error


def _typed(failure: str, error: Exception) -> EngineError:
    """ONNX Runtime raises a dozen classes that share no base; its words are kept whole."""
    return EngineError(f"onnxruntime {failure}: {error}")


def _tensor_spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise EngineError(f"onnxruntime: {node.name} is a {node.type}, and only tensors of numbers are run")
    shape = tuple(size if isinstance(size, int) else size or "?" for size in node.shape)
    return TensorSpec(node.name, shape, _DTYPES[node.type])
