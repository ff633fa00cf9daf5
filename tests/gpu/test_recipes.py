"""Every recipe on a real GPU: built, right, not slower in int8, without leaks, and refused where it does not belong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gpu.accuracy import judge_accuracy, share_beyond
from tests.gpu.comparing import call_times, growth_over, layers_to_blame, memory_taken, percentile_us, ratio_of
from tests.gpu.effort import Effort
from tests.gpu.engines import Engine, build_float16, measured, opened, outputs_on, room_for, sample_of
from tests.gpu.prepared import Prepared

import enginewright_runtime
from enginewright_runtime.backends import backend
from enginewright_runtime.bundle import Bundle, read_bundle, write_bundle
from enginewright_runtime.cli import main
from enginewright_runtime.errors import BundleError, EngineError, NoEngineFits
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.golden import read_golden
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.tensorrt.library import Library

pytestmark = pytest.mark.gpu
LEAKED = 4 << 20  # bytes over all calls: what allocators round up to
BEYOND = 0.01  # the share of samples that may be further from the twin than the golden outputs may
GRAPH = {"cuda_graph": True}


@dataclass(frozen=True)
class Finished:
    """A recipe on this device: the bundle that `enginewright-runtime compile` finished, and both of its engines."""

    prepared: Prepared
    bundle: Bundle
    entry: EngineEntry
    int8: Engine
    float16: Engine | None


@pytest.fixture(scope="session")
def finished(prepared: Prepared, timings: Path, effort: Effort, tmp_path_factory: Any) -> Finished:
    """Compiled by the very command that a user gives on the device."""
    path = tmp_path_factory.mktemp(prepared.name) / "finished.ewb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINEWRIGHT_CACHE", str(timings))
        arguments = ["compile", str(prepared.bundle.path), "--sessions", str(effort.sessions), "--output", str(path)]
        code = main(arguments)
        assert code in (ExitCode.OK, ExitCode.FAILED, ExitCode.INCONCLUSIVE)
        assert path.is_file(), f"{prepared.name}: nothing was finished; what it says is above"
        float16 = build_float16(prepared.bundle)
    bundle = read_bundle(path)
    entry = next(one for one in bundle.manifest.engines if one.backend == "tensorrt")
    int8 = Engine(bundle.read(entry.path), entry.settings)
    return Finished(prepared, bundle, entry, int8, float16)


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


@contextmanager
def both(finished: Finished) -> Iterator[tuple[Engine, Engine]]:
    if finished.float16 is None:
        pytest.skip(f"{finished.prepared.name} is not quantized: there is no second engine to compare with")
    yield finished.int8, finished.float16


def test_the_finished_bundle_opens_and_gives_its_golden_outputs(finished: Finished) -> None:
    golden = read_golden(finished.bundle)
    with enginewright_runtime.open(finished.bundle.path) as session:
        for agreement in golden.compare(session.run(golden.inputs)):
            print(f"{agreement.name}: off by {agreement.largest_difference:.3g}, allowed {agreement.tolerance:.3g}")
            assert agreement.agrees


def test_both_engines_are_as_accurate_as_the_recipe_demands(finished: Finished) -> None:
    with both(finished) as engines:
        for label, engine in zip(("int8", "float16"), engines, strict=True):
            with opened(engine) as one:
                found = judge_accuracy(finished.prepared, outputs_on(one, finished.prepared.samples))
            print(f"{finished.prepared.name} {label}: {found}")
            assert found.within


def test_it_computes_what_its_twin_computed_elsewhere(finished: Finished) -> None:
    tolerances = read_golden(finished.bundle).tolerances
    samples = finished.prepared.samples
    with opened(finished.int8) as engine:
        share = share_beyond(outputs_on(engine, samples), samples.twin, tolerances)
    print(
        f"{finished.prepared.name}: {share:.2%} of {len(samples)} samples are beyond the golden tolerance of the twin"
    )
    assert share <= max(BEYOND, 1.5 / len(samples))


def test_int8_is_not_slower_than_float16(finished: Finished, effort: Effort, tmp_path: Path) -> None:
    """It fails where int8 is slower beyond the noise; wherever it looks slower, the layers to blame are printed."""
    inputs = sample_of(finished.bundle)
    with both(finished) as (int8, float16):
        taken = measured({"int8": int8, "float16": float16}, inputs, tmp_path, effort)
        ratio = ratio_of(taken, "int8", "float16")
        for label in ("int8", "float16"):
            times = [one for session in taken.sessions for one in session.samples_ns[label]]
            print(
                f"{finished.prepared.name} {label}: p50 {percentile_us(times, 50)}, p99 {percentile_us(times, 99)} us"
            )
        print(f"{finished.prepared.name}: int8 takes {ratio} as long as float16")
        if ratio.slower:
            with opened(int8) as ours, opened(float16) as theirs:
                print("\n".join(layers_to_blame(ours.layers(), theirs.layers())))
        assert not ratio.surely_slower


def test_what_an_open_engine_takes_of_memory_is_told_and_given_back(finished: Finished, effort: Effort) -> None:
    inputs = sample_of(finished.bundle)
    open_int8 = partial(opened, finished.int8)
    on_gpu, in_process = memory_taken(open_int8, inputs)
    print(f"{finished.prepared.name}: {on_gpu / 2**20:.1f} MiB of the GPU, {in_process / 2**20:.1f} MiB of the process")

    def once() -> None:
        with open_int8() as engine:
            engine.run(inputs)

    growth = growth_over(once, 10)
    assert growth.gpu <= LEAKED
    assert on_gpu >= 0


def test_a_captured_graph_gives_the_same_and_both_are_timed(finished: Finished, effort: Effort) -> None:
    samples, inputs = finished.prepared.samples, sample_of(finished.bundle)
    with opened(finished.int8) as plain, opened(finished.int8, **GRAPH) as captured:
        for name, values in outputs_on(plain, samples).items():
            np.testing.assert_array_equal(values, outputs_on(captured, samples)[name])
        for word, engine in (("off", plain), ("on", captured)):
            outputs = room_for(engine, inputs)
            whole, rest = call_times(engine, inputs, outputs, effort.timed_calls)
            print(
                f"{finished.prepared.name}, graph {word}: a call p50 {percentile_us(whole, 50)} us, of it "
                f"{percentile_us(rest, 50)} us are not waiting for the GPU"
            )


@pytest.mark.parametrize("graph", [False, True])
def test_ten_thousand_calls_leak_nothing(finished: Finished, effort: Effort, graph: bool) -> None:
    inputs = sample_of(finished.bundle)
    with opened(finished.int8, cuda_graph=graph) as engine:
        outputs = room_for(engine, inputs)
        growth = growth_over(lambda: engine.run_into(inputs, outputs), effort.calls)
    print(
        f"{finished.prepared.name}: after {effort.calls} calls {growth.host:+} bytes resident, {growth.gpu:+} on the GPU"
    )
    assert growth.host <= LEAKED
    assert growth.gpu <= LEAKED


def test_an_engine_that_fits_is_deserialized_once(finished: Finished, deserialized: list[int]) -> None:
    """Or else the tests below could not see that one was not."""
    enginewright_runtime.open(finished.bundle.path).close()
    assert deserialized == [len(finished.int8.data)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tensorrt": "9.9.9"}, r"it needs TensorRT 9\.9\.9, and \d+\.\d+\.\d+.* is installed: compile it again here"),
        ({"compute_capability": "5.0"}, r"it needs compute capability 5\.0, and the .* here has \d+\.\d"),
        ({"device": "Another GPU"}, r"it was tuned on a Another GPU, and this is a .*: compile it here"),
    ],
)
def test_an_engine_of_another_version_or_device_is_refused_with_the_reason(
    finished: Finished, deserialized: list[int], tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    entry = replace(finished.entry, requires={**finished.entry.requires, **changed})
    path = tmp_path / "other.ewb"
    files = {name: finished.bundle.read(name) for name in finished.bundle.contents}
    write_bundle(path, replace(finished.bundle.manifest, engines=(entry,)), files)
    with pytest.raises(NoEngineFits, match=message) as caught:
        enginewright_runtime.open(path)
    assert caught.value.hint == "on its device: enginewright-runtime compile BUNDLE"
    assert deserialized == []


def test_an_altered_engine_is_refused_before_it_is_deserialized(
    finished: Finished, deserialized: list[int], tmp_path: Path
) -> None:
    data = bytearray(finished.bundle.path.read_bytes())
    inside = bytes(data).index(finished.int8.data)
    data[inside + len(finished.int8.data) // 2] ^= 1
    path = tmp_path / "altered.ewb"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="it was altered"):
        enginewright_runtime.open(path)
    assert deserialized == []


def test_an_engine_with_a_foreign_header_is_refused_before_it_is_deserialized(
    finished: Finished, deserialized: list[int], tmp_path: Path
) -> None:
    """Its digests are right: whoever packed it had no engine of this library."""
    for foreign, message in ((b"vtrt", "an engine of TensorRT-RTX"), (b"ELF\x7f", "no engine of TensorRT")):
        files = {name: finished.bundle.read(name) for name in finished.bundle.contents}
        files[finished.entry.path] = foreign + finished.int8.data[4:]
        path = tmp_path / "foreign.ewb"
        write_bundle(path, finished.bundle.manifest, files)
        with pytest.raises(EngineError, match=message):
            enginewright_runtime.open(path)
    assert deserialized == []


def test_the_bundle_as_it_was_carried_is_not_changed(finished: Finished) -> None:
    assert read_bundle(finished.prepared.bundle.path).sha256 == finished.prepared.bundle.sha256
    assert read_bundle(finished.prepared.bundle.path).manifest.engines == ()


def test_the_backend_says_that_its_own_needs_fit(finished: Finished) -> None:
    assert backend("tensorrt").misfit(finished.entry.requires) == ""
