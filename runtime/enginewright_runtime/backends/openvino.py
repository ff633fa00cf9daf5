"""Engines that OpenVINO runs on the CPU.

The engine is the network in OpenVINO's own form (the IR: a graph as XML and its weights), with the inputs and outputs
that the ONNX model declared, in one stored zip that is checked whole before any of it is read. OpenVINO compiles it
when it is opened: it chooses by rules and times nothing, so the same version gives the same bits every time. Two other
forms were tried and left out:

- The blob that OpenVINO exports opens several times faster. But it holds one shape, so a network with a free batch
  would carry its weights twice or do without the fixed shape below; it opens only on a processor with exactly the
  instruction sets of its maker (a blob from AVX-512 is refused by AVX2, and the reverse); and it is trusted as it is
  read.
- The ONNX model is no quicker to read. And it may name other files as its weights, absolute paths included, which
  OpenVINO takes in; the IR names none.

A free batch costs OpenVINO a good part of a small network's latency, because shapes, memory and kernels are worked out
anew in every call. An engine with a free batch is therefore compiled for a batch of one when it is opened, which is
what a camera gives, and for all other shapes when one of them comes first.

An engine needs the version that made it and the machine's architecture. Made where products of 8 bits are exact
(VNNI), it may hold weights of 8 bits and needs VNNI of any kind; made elsewhere, it runs on either.

Numbers of 64 bits are computed in 32: that is how OpenVINO's CPU plugin works. Whole numbers that do not fit are
refused at the inputs.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from enginewright_runtime.backends.onnx_model import Declaration, declaration
from enginewright_runtime.backends.protocol import Array, OpenEngine
from enginewright_runtime.canonical import Json, canonical_bytes, strict_json
from enginewright_runtime.errors import BackendMissing, BundleError, EngineError
from enginewright_runtime.host import instruction_sets, machine
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.manifest import TensorSpec, tensor_specs
from enginewright_runtime.stored_zip import decode, encode

_SETTINGS = {"threads"}
_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
_FILES = ("declaration.json", "model.xml.gz", "model.bin")
# What is computed in 32 bits with a sign, and so may not fit.
_WIDE = frozenset({"int64", "uint64", "uint32"})


@dataclass(frozen=True)
class Settings:
    """How an engine is opened. threads: for the work inside one inference, at most one a processor."""

    threads: int = 1

    @classmethod
    def parse(cls, settings: Mapping[str, Json]) -> Settings:
        """Read settings; an unknown key or a wrong type raises EngineError."""
        fields = JsonField(settings, "openvino settings", EngineError).fields()
        if unknown := sorted(set(settings) - _SETTINGS):
            known = ", ".join(sorted(_SETTINGS))
            raise EngineError(f"openvino settings: unknown key {unknown[0]!r}; known: {known}")
        return cls(threads=fields["threads"].integer(least=1) if "threads" in fields else 1)

    def properties(self) -> dict[str, Any]:
        """The same in OpenVINO's words."""
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            # Two engines of one thread would be pinned to the same core, and to one that others may be using.
            "ENABLE_CPU_PINNING": False,
            # Left to itself, it computes in bfloat16 where the processor can, and rounds what enters a product with
            # integer weights to 8 bits.
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }


class OpenVinoEngine:
    """A compiled network, ready to run. Threads that run it at once take turns."""

    def __init__(
        self,
        library: ModuleType,
        network: Any,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        settings: Settings,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._library = library
        self._properties = settings.properties()
        # OpenVINO leaves out the inputs that nothing reads.
        self._fed = tuple(_declared_name(port, inputs) for port in network.inputs)
        self._wide = tuple(spec.name for spec in inputs if spec.dtype in _WIDE)
        self._sample_shapes = _sample_shapes(inputs)
        self._lock = threading.Lock()
        self._closed = False
        self._network: Any = None
        self._one_sample: Any = None
        self._any_shape: Any = None
        if self._sample_shapes:
            self._network = network
            sample = network.clone()
            sample.reshape({name: list(self._sample_shapes[name]) for name in self._fed})
            self._one_sample = self._compiled(sample)
        else:
            self._any_shape = self._compiled(network)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference on the CPU; see OpenEngine."""
        for name in self._wide:
            _refuse_overflow(name, inputs[name])
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            try:
                return self._infer(self._request(inputs), inputs)
            except Exception as error:
                raise _typed("could not run the engine", error) from error

    def gpu_bytes(self) -> int:
        """None; see OpenEngine."""
        return 0

    def close(self) -> None:
        """Free the network; see OpenEngine."""
        with self._lock:
            self._closed = True
            self._network = self._one_sample = self._any_shape = None

    def _infer(self, request: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for index, name in enumerate(self._fed):
            array = inputs[name]
            # It reads the caller's memory where it is, but takes no array that must not be written to.
            shared = array if array.flags.writeable else array.copy()
            request.set_input_tensor(index, self._library.Tensor(shared, shared_memory=True))
        request.infer(share_outputs=True)
        return {spec.name: request.get_output_tensor(index).data.copy() for index, spec in enumerate(self.outputs)}

    def _request(self, inputs: Mapping[str, Array]) -> Any:
        """The inference request for inputs of these shapes."""
        shapes = self._sample_shapes
        if self._one_sample is not None and all(inputs[name].shape == shapes[name] for name in shapes):
            return self._one_sample
        if self._any_shape is None:
            self._any_shape = self._compiled(self._network)
            self._network = None
        return self._any_shape

    def _compiled(self, network: Any) -> Any:
        return _core().compile_model(network, "CPU", self._properties).create_infer_request()


class OpenVino:
    """The backend `openvino`; see Backend."""

    name = "openvino"
    extra = "openvino"

    def requires(self, settings: Mapping[str, Json] | None = None) -> dict[str, str]:
        """The version, the architecture, and VNNI where this machine has it."""
        return {
            "openvino": _installed_version(),
            "machine": machine(),
            "instructions": "vnni" if set(_VNNI).intersection(instruction_sets()) else "",
        }

    def fingerprint(self, requires: Mapping[str, str]) -> str:
        """Such as openvino-2026.4.1-x86_64-vnni."""
        instructions = [requires["instructions"]] if requires.get("instructions") else []
        return "-".join(["openvino", requires["openvino"], requires["machine"], *instructions])

    def misfit(self, requires: Mapping[str, str]) -> str:
        """Why an engine with these needs does not run here; see Backend. Raises BackendMissing."""
        if unknown := sorted(set(requires) - {"openvino", "machine", "instructions"}):
            return f"it requires {unknown[0]!r}, which this runtime does not know"
        if requires.get("machine") != machine():
            return f"it was made for {requires.get('machine')}, and this machine is {machine()}"
        needed = requires.get("instructions", "")
        if needed not in ("", "vnni"):
            return f"it needs the instructions {needed}, which this runtime does not know"
        if needed and not set(_VNNI).intersection(instruction_sets()):
            return "its 8-bit products are exact with VNNI only, and this processor lacks it"
        wanted, installed = requires.get("openvino"), _installed_version()
        if wanted != installed:
            return f"it needs openvino {wanted}, and {installed} is installed (pip install openvino=={wanted})"
        return ""

    def compile(self, model: bytes, settings: Mapping[str, Json]) -> bytes:
        """Turn an ONNX model into OpenVINO's form, and see that it can be opened here; see Backend."""
        parsed = Settings.parse(settings)
        declared = declaration(model)
        library = _library()
        try:
            network = _core().read_model(model)
            outputs = _output_specs(declared, network)
            OpenVinoEngine(library, network, inputs=declared.inputs, outputs=outputs, settings=parsed).close()
            return _pack(library, network, {"inputs": declared.inputs, "outputs": outputs})
        except EngineError:
            raise
        except Exception as error:
            raise _typed("could not compile the model", error) from error

    def open(self, engine: bytes, settings: Mapping[str, Json]) -> OpenEngine:
        """Compile what `compile` made, for this machine; see Backend."""
        parsed = Settings.parse(settings)
        library = _library()
        specs, xml, weights = _unpack(engine)
        try:
            # A copy, which is aligned, and which lives as long as the network does.
            network = _core().read_model(model=xml, weights=library.Tensor(np.frombuffer(weights, np.uint8)))
            return OpenVinoEngine(library, network, inputs=specs["inputs"], outputs=specs["outputs"], settings=parsed)
        except Exception as error:
            raise _typed("could not open the engine", error) from error


BACKEND = OpenVino()


def _sample_shapes(inputs: tuple[TensorSpec, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a batch of one; empty where no dimension is free, or one that is not the batch."""
    if all(isinstance(size, int) for spec in inputs for size in spec.shape):
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in inputs:
        sizes = tuple(1 if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(spec.shape))
        fixed = tuple(size for size in sizes if isinstance(size, int))
        if len(fixed) != len(sizes):
            return {}
        shapes[spec.name] = fixed
    return shapes


def _declared_name(port: Any, specs: tuple[TensorSpec, ...]) -> str:
    """The declared name of an input: a port may have the names of tensors that are equal to it besides."""
    [name] = {spec.name for spec in specs}.intersection(port.get_names())
    return name


def _refuse_overflow(name: str, array: Array) -> None:
    limits = np.iinfo(np.int32)
    if array.size and (array.max() > limits.max or array.min() < limits.min):
        raise EngineError(
            f"openvino computes {array.dtype} in 32 bits, and the input {name!r} holds {array.min()} to {array.max()}"
        )


def _output_specs(declared: Declaration, network: Any) -> tuple[TensorSpec, ...]:
    """The outputs as declared, with the shapes that OpenVINO infers where the model is silent."""
    ports = list(zip(declared.outputs, network.outputs, strict=True))
    for spec, port in ports:
        if spec.name not in port.get_names():
            raise EngineError(f"openvino gives {', '.join(sorted(port.get_names()))} where the model has {spec.name}")
    return tuple(
        _inferred(spec, port.get_partial_shape(), silent=spec.name in declared.shapeless) for spec, port in ports
    )


def _inferred(spec: TensorSpec, shape: Any, *, silent: bool) -> TensorSpec:
    if shape.rank.is_dynamic:
        if silent:
            raise EngineError(f"openvino cannot tell how many dimensions the output {spec.name} has")
        return spec
    said = ("?",) * len(shape) if silent else spec.shape
    sizes = zip(said, shape, strict=True)
    merged = tuple(size if isinstance(size, int) or found.is_dynamic else found.get_length() for size, found in sizes)
    return TensorSpec(spec.name, merged, spec.dtype)


def _pack(library: ModuleType, network: Any, specs: Mapping[str, tuple[TensorSpec, ...]]) -> bytes:
    document: dict[str, Json] = {
        kind: [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in found]
        for kind, found in specs.items()
    }
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        xml, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
        library.serialize(network, xml, weights)
        contents = (canonical_bytes(document), gzip.compress(xml.read_bytes(), mtime=0), weights.read_bytes())
    return b"".join(encode(list(zip(_FILES, contents, strict=True)), comment_bytes=0))


def _unpack(engine: bytes) -> tuple[dict[str, tuple[TensorSpec, ...]], bytes, memoryview]:
    """What `_pack` packed. Raises EngineError for anything else."""
    failure = "openvino could not open the engine"
    try:
        files = decode(memoryview(engine), comment_bytes=0)
        if tuple(name for name, _ in files) != _FILES:
            raise EngineError(f"{failure}: it holds other files than {', '.join(_FILES)}")
        (_, described), (_, xml), (_, weights) = files
        document = JsonField(strict_json(bytes(described)), f"{failure}: {_FILES[0]}", EngineError)
        specs = {kind: tensor_specs(document.field(kind)) for kind in ("inputs", "outputs")}
        return specs, gzip.decompress(xml), weights
    except BundleError as error:
        raise EngineError(f"{failure}: {error.message}") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise EngineError(f"{failure}: {error}") from None


def _installed_version() -> str:
    """The version that is installed, without importing it: planning a build and choosing an engine need no more."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        raise _missing("openvino is not installed") from None


@cache
def _core() -> Any:
    return _library().Core()


def _library() -> ModuleType:
    # When it is imported, it reports home through the package openvino_telemetry, and does without where that is not
    # installed. A vehicle must not report, and neither must a process that is being timed. A program that wants it
    # imports openvino before it opens an engine.
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment] # how Python is told that a module cannot be had
    try:
        return import_module("openvino")
    except ImportError as error:
        raise _missing(f"openvino cannot be imported: {error}") from error
    finally:
        if hidden:
            del sys.modules[telemetry]


def _missing(message: str) -> BackendMissing:
    return BackendMissing(message, hint="pip install 'enginewright-runtime[openvino]'")


def _typed(failure: str, error: Exception) -> EngineError:
    """OpenVINO raises whatever its bindings do; its words are kept whole."""
    return EngineError(f"openvino {failure}: {str(error).strip()}")
