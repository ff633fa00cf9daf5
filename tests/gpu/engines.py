"""A recipe's two engines on this device: int8 as it ships, and the same network in float16 to compare with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.gpu.effort import Effort
from tests.gpu.prepared import Prepared, Samples

from enginewright_runtime.backends import Array, backend
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.canonical import Json
from enginewright_runtime.finishing import HALF_NAME, MODEL_NAME, Finished, finish_bundle
from enginewright_runtime.golden import one_sample, read_golden
from enginewright_runtime.unquantized import UNQUANTIZED_NAME

__all__ = ["BATCH", "Engine", "Recipe", "build_ns", "finish", "opened", "outputs_on", "room_for"]

BATCH = 32  # the largest that the recipes' engines are built for


@dataclass(frozen=True)
class Engine:
    """An engine's bytes, and how it is opened."""

    data: bytes
    settings: Mapping[str, Json]


@dataclass(frozen=True)
class Recipe:
    """A recipe that was finished on this device. `float16` is None where it does not quantize, or where its build failed:
    then the warnings of `finished` say why.
    """

    prepared: Prepared
    bundle: Bundle
    finished: Finished
    int8: Engine
    float16: Engine | None

    @property
    def name(self) -> str:
        return self.prepared.name

    @property
    def quantized(self) -> bool:
        return UNQUANTIZED_NAME in self.bundle.contents

    @property
    def sample(self) -> dict[str, Array]:
        """One golden sample: what latencies are measured on."""
        return one_sample(read_golden(self.bundle).inputs, self.bundle.manifest.inputs)

    @property
    def layers_to_blame(self) -> list[str]:
        """What costs time in the int8 engine, as TensorRT's profiler tells it."""
        comparison = self.finished.comparison
        return comparison.lines() if comparison is not None else []


def finish(prepared: Prepared, folder: Path, effort: Effort) -> Recipe:
    """Do what `enginewright-runtime compile` does. Raises EngineError, and AssertionError where the golden outputs differ."""
    path = folder / f"{prepared.name}.ewb"
    finished = finish_bundle(prepared.bundle, path, sessions=effort.sessions)
    assert finished.agrees, f"{prepared.name}: {finished.agreements}"
    bundle = read_bundle(path)
    float16 = finished.float16
    return Recipe(
        prepared,
        bundle,
        finished,
        Engine(bundle.read(finished.entry.path), finished.entry.settings),
        None if float16 is None else Engine(float16.engine, float16.settings),
    )


def build_ns(bundle: Bundle, precision: str) -> int:
    """How long a build of the bundle's network takes, as "int8" or "float16"."""
    [pending] = bundle.manifest.pending
    chosen: Any = backend("tensorrt")
    name = UNQUANTIZED_NAME
    if precision == "int8":
        name = HALF_NAME if HALF_NAME in bundle.contents and chosen.typed_by_the_network() else MODEL_NAME
    started = time.perf_counter_ns()
    chosen.build(bundle.read(name), pending.settings)
    return time.perf_counter_ns() - started


def opened(engine: Engine, **settings: Json) -> Any:
    """The engine, open until the block ends; `settings` besides its own."""
    # OpenEngine of TensorRT, whose bindings carry no types
    return closing(backend("tensorrt").open(engine.data, {**engine.settings, **settings}))  # type: ignore[type-var]


def outputs_on(engine: Any, samples: Samples) -> dict[str, Array]:
    """What an open engine says of all samples, in batches."""
    found = [engine.run(samples.batch(first, BATCH)) for first in range(0, len(samples), BATCH)]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


def room_for(engine: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays that an inference of these inputs can write its outputs into."""
    return {name: np.empty_like(values) for name, values in engine.run(inputs).items()}
