"""Every recipe on a real GPU: built, right, not slower in int8, without leaks, and refused where it does not belong."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gpu.accuracy import judge_accuracy, share_beyond
from tests.gpu.comparing import call_times, growth_over, memory_taken, percentile_us, ratio_of
from tests.gpu.effort import Effort
from tests.gpu.engines import Engine, Recipe, finish, opened, outputs_on, room_for
from tests.gpu.prepared import Prepared

import enginewright_runtime
from enginewright_runtime.backends import backend
from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.errors import BundleError, EngineError, NoEngineFits
from enginewright_runtime.golden import read_golden
from enginewright_runtime.tensorrt.library import Library
from enginewright_runtime.unquantized import LABEL

pytestmark = pytest.mark.gpu
LEAKED = 4 << 20  # bytes over all calls: what allocators round up to
BEYOND = 0.01  # the share of samples that may be further from the twin than the golden outputs may
GRAPH = {"cuda_graph": True}


@pytest.fixture(scope="session")
def recipe(prepared: Prepared, timings: Path, effort: Effort, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Compiled, checked and measured as `enginewright-runtime compile` does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINEWRIGHT_CACHE", str(timings))
        found = finish(prepared, tmp_path_factory.mktemp(prepared.name), effort)
    print("\n".join([f"{found.name}: {found.finished.entry.fingerprint}", *found.finished.warnings]))
    return found


@pytest.fixture
def deserialized(library: Library, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the engines that TensorRT was asked to deserialize, which is running what they hold."""
    sizes: list[int] = []
    real = library.trt.Runtime

    class Watched:
        def __init__(self, log: Any) -> None:
            object.__setattr__(self, "_runtime", real(log))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._runtime, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self._runtime, name, value)

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            sizes.append(len(data))
            return self._runtime.deserialize_cuda_engine(data)

    monkeypatch.setattr(library.trt, "Runtime", Watched)
    return sizes


def float16_of(recipe: Recipe) -> Engine:
    if not recipe.quantized:
        pytest.skip(f"{recipe.name} is not quantized: there is no second engine to compare with")
    assert recipe.float16 is not None, f"{recipe.name}: float16 was not built: {recipe.finished.warnings}"
    return recipe.float16


def test_the_finished_bundle_opens_and_gives_its_golden_outputs(recipe: Recipe) -> None:
    golden = read_golden(recipe.bundle)
    with enginewright_runtime.open(recipe.bundle.path) as session:
        for agreement in golden.compare(session.run(golden.inputs)):
            print(f"{agreement.name}: off by {agreement.largest_difference:.3g}, allowed {agreement.tolerance:.3g}")
            assert agreement.agrees


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_it_is_as_accurate_as_the_recipe_demands(recipe: Recipe, precision: str) -> None:
    with opened(recipe.int8 if precision == "int8" else float16_of(recipe)) as engine:
        found = judge_accuracy(recipe.prepared, outputs_on(engine, recipe.prepared.samples))
    print(f"{recipe.name} {precision}: {found}")
    assert found.within


def test_it_computes_what_its_twin_computed_elsewhere(recipe: Recipe) -> None:
    tolerances = read_golden(recipe.bundle).tolerances
    samples = recipe.prepared.samples
    with opened(recipe.int8) as engine:
        share = share_beyond(outputs_on(engine, samples), samples.twin, tolerances)
    print(f"{recipe.name}: {share:.2%} of {len(samples)} samples are beyond the golden tolerance of the twin")
    assert share <= max(BEYOND, 1.5 / len(samples))


def test_int8_is_not_slower_than_float16(recipe: Recipe) -> None:
    """It fails where int8 is slower beyond the noise; wherever it looks slower, the layers to blame are printed."""
    float16_of(recipe)
    taken = recipe.finished.measurement
    assert taken is not None
    ratio = ratio_of(taken, "engine", LABEL)
    for precision, label in (("int8", "engine"), ("float16", LABEL)):
        times = [one for session in taken.sessions for one in session.samples_ns[label]]
        print(f"{recipe.name} {precision}: p50 {percentile_us(times, 50)} us, p99 {percentile_us(times, 99)} us")
    blamed = "\n  ".join([f"{recipe.name}: int8 takes {ratio} as long as float16", *recipe.layers_to_blame])
    print(blamed)
    assert not ratio.surely_slower, blamed


def test_the_layers_of_both_engines_and_their_times_are_in_the_bundle(recipe: Recipe) -> None:
    fingerprint = recipe.finished.entry.fingerprint
    names = ["layers.json"] + (["float16-layers.json"] if recipe.quantized else [])
    for name in names:
        listed = json.loads(recipe.bundle.read(f"engines/{fingerprint}/{name}"))["layers"]
        assert listed
        timed = [layer["time_ns"] for layer in listed if layer["time_ns"] is not None]
        print(f"{recipe.name} {name}: {len(listed)} layers, {len(timed)} of them timed")
        assert sum(timed) > 0


def test_what_an_open_engine_takes_of_memory_is_told_and_given_back(recipe: Recipe) -> None:
    inputs = recipe.sample
    open_int8 = partial(opened, recipe.int8)
    on_gpu, in_process = memory_taken(open_int8, inputs)
    print(f"{recipe.name}: {on_gpu / 2**20:.1f} MiB of the GPU, {in_process / 2**20:.1f} MiB of the process")

    def once() -> None:
        with open_int8() as engine:
            engine.run(inputs)

    growth = growth_over(once, 10)
    assert growth.gpu <= LEAKED
    assert on_gpu >= 0


def test_a_captured_graph_gives_the_same_and_both_are_timed(recipe: Recipe, effort: Effort) -> None:
    samples, inputs = recipe.prepared.samples, recipe.sample
    with opened(recipe.int8) as plain, opened(recipe.int8, **GRAPH) as captured:
        for name, values in outputs_on(plain, samples).items():
            np.testing.assert_array_equal(values, outputs_on(captured, samples)[name])
        for word, engine in (("off", plain), ("on", captured)):
            outputs = room_for(engine, inputs)
            whole, rest = call_times(engine, inputs, outputs, effort.timed_calls)
            print(
                f"{recipe.name}, graph {word}: a call p50 {percentile_us(whole, 50)} us, of it "
                f"{percentile_us(rest, 50)} us are not waiting for the GPU"
            )


@pytest.mark.parametrize("graph", [False, True])
def test_ten_thousand_calls_leak_nothing(recipe: Recipe, effort: Effort, graph: bool) -> None:
    inputs = recipe.sample
    with opened(recipe.int8, cuda_graph=graph) as engine:
        outputs = room_for(engine, inputs)
        growth = growth_over(lambda: engine.run_into(inputs, outputs), effort.calls)
    print(f"{recipe.name}: after {effort.calls} calls {growth.host:+} bytes resident, {growth.gpu:+} on the GPU")
    assert growth.host <= LEAKED
    assert growth.gpu <= LEAKED


def test_an_engine_that_fits_is_deserialized_once(recipe: Recipe, deserialized: list[int]) -> None:
    """Or else the tests below could not see that one was not."""
    enginewright_runtime.open(recipe.bundle.path).close()
    assert deserialized == [len(recipe.int8.data)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tensorrt": "9.9.9"}, r"it needs TensorRT 9\.9\.9, and \d+\.\d+\.\d+.* is installed: compile it again here"),
        ({"compute_capability": "5.0"}, r"it needs compute capability 5\.0, and the .* here has \d+\.\d"),
        ({"device": "Another GPU"}, r"it was tuned on a Another GPU, and this is a .*: compile it here"),
    ],
    ids=["version", "capability", "model"],
)
def test_an_engine_of_another_version_or_device_is_refused_with_the_reason(
    recipe: Recipe, deserialized: list[int], tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    entry = replace(recipe.finished.entry, requires={**recipe.finished.entry.requires, **changed})
    path = tmp_path / "other.ewb"
    files = {name: recipe.bundle.read(name) for name in recipe.bundle.contents}
    write_bundle(path, replace(recipe.bundle.manifest, engines=(entry,)), files)
    with pytest.raises(NoEngineFits, match=message) as caught:
        enginewright_runtime.open(path)
    assert caught.value.hint == "on its device: enginewright-runtime compile BUNDLE"
    assert deserialized == []


def test_an_altered_engine_is_refused_before_it_is_deserialized(
    recipe: Recipe, deserialized: list[int], tmp_path: Path
) -> None:
    data = bytearray(recipe.bundle.path.read_bytes())
    inside = bytes(data).index(recipe.int8.data)
    data[inside + len(recipe.int8.data) // 2] ^= 1
    path = tmp_path / "altered.ewb"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="it was altered"):
        enginewright_runtime.open(path)
    assert deserialized == []


def test_an_engine_with_a_foreign_header_is_refused_before_it_is_deserialized(
    recipe: Recipe, deserialized: list[int], tmp_path: Path
) -> None:
    """Its digests are right: whoever packed it had no engine of this library."""
    for foreign, message in ((b"vtrt", "an engine of TensorRT-RTX"), (b"ELF\x7f", "no engine of TensorRT")):
        files = {name: recipe.bundle.read(name) for name in recipe.bundle.contents}
        files[recipe.finished.entry.path] = foreign + recipe.int8.data[4:]
        path = tmp_path / "foreign.ewb"
        write_bundle(path, recipe.bundle.manifest, files)
        with pytest.raises(EngineError, match=message):
            enginewright_runtime.open(path)
    assert deserialized == []


def test_the_bundle_as_it_was_carried_is_not_changed(recipe: Recipe) -> None:
    assert read_bundle(recipe.prepared.bundle.path).sha256 == recipe.prepared.bundle.sha256
    assert read_bundle(recipe.prepared.bundle.path).manifest.engines == ()


def test_the_backend_says_that_its_own_needs_fit(recipe: Recipe) -> None:
    assert backend("tensorrt").misfit(recipe.finished.entry.requires) == ""
