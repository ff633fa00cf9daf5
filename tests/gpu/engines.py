"""A recipe's two engines on this device: int8 as it ships, and its unquantized twin in float16 to compare with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.gpu.effort import Effort
from tests.gpu.prepared import Samples

from enginewright_runtime.backends import Array, backend
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.canonical import Json
from enginewright_runtime.golden import one_sample, read_golden
from enginewright_runtime.measure import EngineToMeasure, Measurement, measure

__all__ = [
    "BATCH",
    "Engine",
    "build_float16",
    "build_int8",
    "measured",
    "opened",
    "outputs_on",
    "room_for",
    "sample_of",
]

BATCH = 32  # the largest that the recipes' engines are built for
_FLOAT16, _INT8, _INT8_TYPED = "unquantized.float16.onnx", "model.onnx", "model.float16.onnx"


@dataclass(frozen=True)
class Engine:
    """An engine's bytes, how it is opened, and how long its build took; None where it was not built here."""

    data: bytes
    settings: Mapping[str, Json]
    build_ns: int | None = None
    warnings: tuple[str, ...] = ()


def build_float16(bundle: Bundle) -> Engine | None:
    """The float16 engine of a pending bundle; None where the recipe does not quantize, and there is nothing to compare."""
    return _built(bundle, _FLOAT16) if _FLOAT16 in bundle.contents else None


def build_int8(bundle: Bundle) -> Engine:
    """The engine that ships, from the network that this version of TensorRT takes."""
    typed: Any = backend("tensorrt")
    half = _INT8_TYPED in bundle.contents and typed.typed_by_the_network()
    return _built(bundle, _INT8_TYPED if half else _INT8)


def _built(bundle: Bundle, name: str) -> Engine:
    [pending] = bundle.manifest.pending
    chosen: Any = backend("tensorrt")
    started = time.perf_counter_ns()
    built = chosen.build(bundle.read(name), pending.settings)
    return Engine(built.engine, pending.settings, time.perf_counter_ns() - started, built.warnings)


def opened(engine: Engine, **settings: Json) -> Any:
    """The engine, open until the block ends; `settings` besides its own."""
    # OpenEngine of TensorRT, whose bindings carry no types
    return closing(backend("tensorrt").open(engine.data, {**engine.settings, **settings}))  # type: ignore[type-var]


def outputs_on(engine: Any, samples: Samples) -> dict[str, Array]:
    """What an open engine says of all samples, in batches."""
    found = [engine.run(samples.batch(first, BATCH)) for first in range(0, len(samples), BATCH)]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


def sample_of(bundle: Bundle) -> dict[str, Array]:
    """One golden sample: what latencies are measured on."""
    return one_sample(read_golden(bundle).inputs, bundle.manifest.inputs)


def room_for(engine: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays that an inference of these inputs can write its outputs into."""
    return {name: np.empty_like(values) for name, values in engine.run(inputs).items()}


def measured(engines: Mapping[str, Engine], inputs: Mapping[str, Array], folder: Path, effort: Effort) -> Measurement:
    """Their latencies from call to return, side by side in the same sessions of fresh processes."""
    files = {}
    for label, engine in engines.items():
        path = folder / label
        path.write_bytes(engine.data)
        files[label] = EngineToMeasure(path, "tensorrt", engine.settings)
    return measure(
        files, inputs, sessions=effort.sessions, rounds=effort.rounds, chunk=effort.chunk, warm_up=effort.warm_up
    )
