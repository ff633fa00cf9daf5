"""TensorRT without a GPU, for tests: a module with exactly the names that a version's real bindings have.

The names were recorded from the real bindings (tests/contract/tensorrt_names). Whatever else is asked for, or set,
raises AttributeError, as it would there. Enumerations get other numbers in each version. An engine is a header and the
model, which ONNX Runtime runs; an "address" is one of the processor's own memory (tests/fake_cuda.py).
"""

from __future__ import annotations

import ctypes
import json
import time
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from enginewright_runtime.backends.onnx_model import declaration, node_names
from enginewright_runtime.manifest import TensorSpec

NAMES = Path(__file__).parent / "contract" / "tensorrt_names"
VERSIONS = tuple(path.stem for path in sorted(NAMES.glob("*.json")))
_WORDS = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32", "bool": "BOOL", "uint8": "UINT8"}
CACHE_OF_THIS_DEVICE = b"timings of this device"


_DEFAULTS: dict[str, Any] = {
    "says": (),
    "warns": (),
    "fails": (),
    "raises": None,
    "rejects": (),
    "rejecting": "no importer for it",
    "dla_cores": 0,
    "not_on_dla": (),
    "on_unfit_timings": (),
    "before_step": None,
    "layers": {},
    "takes_s": (0.0, 0.0),
    "cuda": None,
}


def fake_tensorrt(version: str, **behaviour: Any) -> Any:
    """The module. `behaviour`: `says` are lines that its log gets when it fails, `warns` those of warnings before them,
    `fails` what gives None; `raises`: what the build raises; `rejects`: operators that its parser lacks, in the words
    `rejecting`; `dla_cores`, and `not_on_dla`: names of layers; `on_unfit_timings`: lines of a version that takes a
    timing cache that does not fit, and goes without; `before_step`: called before each step of a build; `cuda`: see
    tests/fake_cuda.py; `layers`: by a node that a network has, what the inspector says of its engine's layers, and the
    `ms` of each; `takes_s`: how long an
    inference takes, with Q/DQ pairs and without.
    """
    recorded = json.loads((NAMES / f"{version}.json").read_text())
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    module.world = SimpleNamespace(  # type: ignore[attr-defined]
        **{**_DEFAULTS, **behaviour},
        config=None,
        network_flags=0,
        parser_flags=[],
        version=version,
        module=module,
    )
    for name, members in recorded["classes"].items():
        if name in recorded["enums"]:
            setattr(module, name, _enumeration(name, members, version))
        elif name in _BEHAVIOUR:
            setattr(module, name, _guarded(_BEHAVIOUR[name], name, set(members), module.world))  # type: ignore[attr-defined]
    return module


class _Member:
    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value

    def __int__(self) -> int:
        return self.value


def _enumeration(name: str, members: list[str], version: str) -> type:
    words = [word for word in members if word not in ("name", "value")]
    order = sorted(words, key=lambda word: zlib.crc32(f"{version} {name} {word}".encode()))
    return type(name, (), {word: _Member(word, number) for number, word in enumerate(order)})


def _guarded(behaviour: type, name: str, members: set[str], world: Any) -> type:
    """`behaviour` with those of its names that the version has."""
    kept = {
        key: value
        for key, value in vars(behaviour).items()
        if (key.startswith("_") and key not in ("__dict__", "__weakref__")) or key in members
    }

    def set_attribute(self: Any, key: str, value: Any) -> None:
        if not key.startswith("_") and key not in members and type(self).__module__ == __name__:
            raise AttributeError(f"'{name}' object has no attribute '{key}'")
        object.__setattr__(self, key, value)

    return type(name, (), {**kept, "__setattr__": set_attribute, "_world": world, "__module__": __name__})


def _fail(world: Any, logger: Any) -> None:
    severity = world.module.ILogger.Severity
    for line in world.warns:
        logger.log(severity.WARNING, line)
    for line in world.says:
        logger.log(severity.ERROR, line)


class _ILogger:
    Severity = type("Severity", (), {word: _Member(word, 0) for word in ("ERROR", "WARNING", "INFO", "VERBOSE")})

    def __init__(self) -> None: ...


class _Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = self._world.logger = logger
        if "builder" in self._world.fails:
            _fail(self._world, logger)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def num_DLA_cores(self) -> int:
        return int(self._world.dla_cores)

    def create_network(self, flags: int) -> Any:
        self._world.network_flags = flags
        return self._world.module.INetworkDefinition()

    def create_builder_config(self) -> Any:
        self._world.config = self._world.module.IBuilderConfig()
        return self._world.config

    def create_optimization_profile(self) -> Any:
        return self._world.module.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
        for step in range(2):
            if self._world.before_step is not None:
                self._world.before_step()
            if monitor is not None and not monitor.step_complete("Building", step):
                return None
        if monitor is not None:
            monitor.phase_finish("Building")
        if self._world.raises is not None:
            raise self._world.raises
        if "build" in self._world.fails:
            _fail(self._world, self._logger)
            return None
        version = [int(part) for part in self._world.version.split(".")]
        profiles = [profile._shapes for profile in config._profiles]
        content = json.dumps({"model": network._model.hex(), "profile": profiles[0] if profiles else {}})
        return memoryview(b"ftrt".ljust(24, b"\0") + bytes([*version, 0])[:4] + content.encode())


class _INetworkDefinition:
    def __init__(self) -> None:
        self._model = b""

    @property
    def num_layers(self) -> int:
        return len(node_names(self._model))

    def get_layer(self, index: int) -> Any:
        return SimpleNamespace(name=node_names(self._model)[index][0])


class _OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network
        self._errors: list[Any] = []

    def set_flag(self, flag: Any) -> None:
        self._world.parser_flags.append(flag.name)

    def parse(self, model: bytes) -> bool:
        self._network._model = model
        for index, (name, operator) in enumerate(node_names(model)):
            if operator in self._world.rejects:
                self._errors.append(self._world.module.ParserError(index, name, operator))
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


class _ParserError:
    def __init__(self, index: int, name: str, operator: str) -> None:
        self._index, self._name, self._operator = index, name, operator

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator

    def desc(self) -> str:
        return str(self._world.rejecting)


class _IBuilderConfig:
    def __init__(self) -> None:
        self._flags: list[str] = []
        self._pools: dict[str, int] = {}
        self._profiles: list[Any] = []
        self._cache: Any = None

    builder_optimization_level: int | None = None
    profiling_verbosity = default_device_type = DLA_core = progress_monitor = int8_calibrator = None

    def set_flag(self, flag: Any) -> None:
        self._flags.append(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._pools[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: Any) -> bool:
        self._calibration_profile = profile
        return True

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.name not in self._world.not_on_dla

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data, serialize=lambda: memoryview(CACHE_OF_THIS_DEVICE))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.data not in (b"", CACHE_OF_THIS_DEVICE):
            for line in self._world.on_unfit_timings:
                self._world.logger.log(self._world.module.ILogger.Severity.ERROR, line)
            return bool(self._world.on_unfit_timings)
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class _IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [min, opt, max]


class _Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        if "runtime" in self._world.fails:
            _fail(self._world, logger)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    DLA_core: int | None = None

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        if "deserialize" in self._world.fails:
            _fail(self._world, self._logger)
            return None
        return self._world.module.ICudaEngine(json.loads(data[28:]))


class _ICudaEngine:
    def __init__(self, content: Any) -> None:
        self._model = bytes.fromhex(content["model"])
        self._profile = content["profile"]
        declared = declaration(self._model)
        self._specs = {spec.name: spec for spec in (*declared.inputs, *declared.outputs)}
        self._inputs = [spec.name for spec in declared.inputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self._specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self._specs)[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._world.module.TensorIOMode
        return mode.INPUT if name in self._inputs else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._world.module.DataType, _WORDS[self._specs[name].dtype])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._specs[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self._profile.get(name, [list(self._specs[name].shape)] * 3)

    def create_execution_context(self) -> Any:
        return None if "context" in self._world.fails else self._world.module.IExecutionContext(self)

    def create_engine_inspector(self) -> Any:
        return self._world.module.EngineInspector()

    def _layers(self) -> Any:
        nodes = {name for name, _ in node_names(self._model)}
        return next((layers for node, layers in self._world.layers.items() if node in nodes), [_LAYER])


_LAYER = {
    "Name": "conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
    "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
    "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
    "ms": 0.2,
}


class _EngineInspector:
    execution_context: Any = None

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        layers = self.execution_context._engine._layers()
        told = [{key: value for key, value in layer.items() if key != "ms"} for layer in layers]
        return json.dumps({"Layers": told, "Bindings": []})


class _IExecutionContext:
    def __init__(self, engine: Any) -> None:
        import onnxruntime

        self._engine = engine
        self._session = onnxruntime.InferenceSession(engine._model, providers=["CPUExecutionProvider"])
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        known: dict[str, int] = {}
        for given, shape in self._shapes.items():
            known.update({str(word): size for word, size in zip(self._engine._specs[given].shape, shape, strict=True)})
        shape = self._engine._specs[name].shape
        return tuple(size if isinstance(size, int) else known.get(size, -1) for size in shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if "run" in self._world.fails:
            return False
        self._world.cuda.enqueue(self._execute)
        return True

    profiler: Any = None

    def _execute(self) -> None:
        if takes_s := self._world.takes_s[b"QuantizeLinear" not in self._engine._model]:
            time.sleep(takes_s)
        if self.profiler is not None:
            for layer in self._engine._layers():
                self.profiler.report_layer_time(layer["Name"], layer["ms"])
        specs = self._engine._specs
        feed = {name: self._array(specs[name], shape) for name, shape in self._shapes.items()}
        outputs = [name for name in specs if name not in feed]
        for name, found in zip(outputs, self._session.run(outputs, feed), strict=True):
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(found).ctypes.data, found.nbytes)

    def _array(self, spec: TensorSpec, shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(spec.dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = (ctypes.c_uint8 * size).from_address(self._addresses[spec.name])
        return np.frombuffer(bytes(data), dtype).reshape(shape)


class _IProgressMonitor:
    def __init__(self) -> None: ...


class _IProfiler:
    def __init__(self) -> None: ...


class _IInt8EntropyCalibrator2:
    def __init__(self) -> None: ...


_BEHAVIOUR: dict[str, type] = {
    "ILogger": _ILogger,
    "Builder": _Builder,
    "INetworkDefinition": _INetworkDefinition,
    "OnnxParser": _OnnxParser,
    "ParserError": _ParserError,
    "IBuilderConfig": _IBuilderConfig,
    "IOptimizationProfile": _IOptimizationProfile,
    "Runtime": _Runtime,
    "ICudaEngine": _ICudaEngine,
    "EngineInspector": _EngineInspector,
    "IExecutionContext": _IExecutionContext,
    "IProgressMonitor": _IProgressMonitor,
    "IProfiler": _IProfiler,
    "IInt8EntropyCalibrator2": _IInt8EntropyCalibrator2,
}
