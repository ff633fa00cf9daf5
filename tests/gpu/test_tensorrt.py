"""TensorRT on a real GPU: what the tests with a fake cannot know."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from tests.gpu.comparing import call_times, growth_over, percentile_us
from tests.gpu.effort import Effort
from tests.gpu.networks import images, network

from enginewright_runtime.backends import backend
from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt.comparison import compare
from enginewright_runtime.tensorrt.device import Device
from enginewright_runtime.tensorrt.engine_layers import with_times
from enginewright_runtime.tensorrt.gpu_time import time_on_gpu
from enginewright_runtime.tensorrt.header import read_header
from enginewright_runtime.tensorrt.library import Library

pytestmark = pytest.mark.gpu
SETTINGS: dict[str, Any] = {"sizes": {"batch": [1, 1, 8]}, "optimization_level": 2}
Engines = Callable[..., bytes]


@pytest.fixture(scope="module")
def engines(library: Library) -> Engines:
    """Builds each engine once."""
    built: dict[tuple[bool, str], bytes] = {}

    def build(*, int8: bool = True, precision: str = "float16") -> bytes:
        if (int8, precision) not in built:
            settings = {**SETTINGS, "precision": precision}
            if "8.5" in library.version:
                del settings["optimization_level"]
            model = network(int8=int8).SerializeToString()
            built[int8, precision] = backend("tensorrt").compile(model, settings)
        return built[int8, precision]

    return build


def opened(engine: bytes, **settings: Any) -> Any:
    return closing(backend("tensorrt").open(engine, {**SETTINGS, **settings}))  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("int8", "precision", "bound"), [(False, "float32", 2e-3), (False, "float16", 1e-2), (True, "float16", 5e-2)]
)
def test_it_computes_what_the_network_says(engines: Engines, int8: bool, precision: str, bound: float) -> None:
    reference = ReferenceEvaluator(network(int8=int8, opset=19))  # of 17 it has no pairs; they mean the same
    with opened(engines(int8=int8, precision=precision)) as engine:
        for batch in (1, 3, 8):
            x = images(batch)
            expected = reference.run(None, {"image": x})[0]
            found = engine.run({"image": x})["mean"]
            assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


def test_the_int8_layers_are_int8_in_the_engine(engines: Engines) -> None:
    with opened(engines()) as engine:
        layers = engine.layers()
    integer = {node for layer in layers if layer.precision == "int8" for node in layer.nodes}
    names = " ".join(layer.name for layer in layers if layer.precision == "int8")
    assert [f"conv{index}" for index in range(6) if f"conv{index}" not in integer and f"conv{index}" not in names] == []


def test_a_captured_graph_gives_the_same_as_the_calls(engines: Engines) -> None:
    x = images(2)
    with opened(engines()) as plain, opened(engines(), cuda_graph=True) as captured:
        for _ in range(3):
            np.testing.assert_array_equal(plain.run({"image": x})["mean"], captured.run({"image": x})["mean"])


def test_ten_thousand_inferences_leak_nothing(engines: Engines, effort: Effort) -> None:
    x, into = images(1), np.empty((1, 32, 1, 1), np.float32)
    with opened(engines(), cuda_graph=True) as engine:
        growth = growth_over(lambda: engine.run_into({"image": x}, {"mean": into}), effort.calls)
        whole, _ = call_times(engine, {"image": x}, {"mean": into}, effort.timed_calls)
    assert growth.host < 4 << 20
    assert growth.gpu < 4 << 20
    print(f"an inference takes {percentile_us(whole, 50)} us from call to return")


def test_several_engines_run_side_by_side(engines: Engines) -> None:
    x = images(1)
    with opened(engines()) as one, opened(engines(int8=False)) as other:
        first = one.run({"image": x})["mean"]
        other.run({"image": x})
        np.testing.assert_array_equal(one.run({"image": x})["mean"], first)


def test_a_shape_outside_the_profile_is_refused(engines: Engines) -> None:
    with opened(engines()) as engine, pytest.raises(EngineError, match="the engine was built for"):
        engine.run({"image": images(9)})


def test_an_engine_of_another_version_is_refused_before_it_is_deserialized(engines: Engines) -> None:
    engine = bytearray(engines())
    if not read_header(bytes(engine)).version:
        pytest.skip("of this version the header does not tell")
    engine[25] += 1
    with pytest.raises(EngineError, match="was built by TensorRT"):
        backend("tensorrt").open(bytes(engine), SETTINGS)


def test_the_header_tells_the_version_that_is_installed(engines: Engines, library: Library) -> None:
    assert read_header(engines()).made_by(library.version)


def test_needs_name_this_device_and_fit_it(device: Device, library: Library) -> None:
    needs = backend("tensorrt").requires()
    assert needs["compute_capability"] == device.compute_capability
    assert backend("tensorrt").misfit(needs) == ""


def test_the_timings_are_kept(engines: Engines, cache: Path) -> None:
    engines()
    assert [path.suffix for path in cache.iterdir()] == [".timing"]


def test_timings_that_are_damaged_are_taken_anew(cache: Path, library: Library) -> None:
    model = network(int8=True, layers=1).SerializeToString()
    chosen: Any = backend("tensorrt")
    chosen.build(model, SETTINGS)
    [kept] = cache.iterdir()
    kept.write_bytes(b"no timings at all")
    built = chosen.build(model, SETTINGS)
    assert any("taken" in warning or "measured anew" in warning for warning in built.warnings)


def test_a_workspace_that_is_too_small_is_an_error_or_a_slower_engine(library: Library) -> None:
    """Which of the two, the version decides; it must not crash, and an error must have TensorRT's words."""
    said = "it says"
    try:
        engine = backend("tensorrt").compile(network(int8=True).SerializeToString(), {**SETTINGS, "workspace_mib": 1})
    except EngineError as error:
        engine, said = b"", error.message
    assert len(engine) > 1000 or "it says" in said


def test_int8_against_float16_is_reported(engines: Engines, effort: Effort, device: Device, library: Library) -> None:
    """No assertion on time: it says who is faster, and which layers to look at where int8 is not."""
    x = images(8)
    medians, layers = {}, {}
    for int8 in (False, True):
        with opened(engines(int8=int8), cuda_graph=True) as engine:
            into = np.empty((8, 32, 1, 1), np.float32)
            call_times(engine, {"image": x}, {"mean": into}, effort.timed_calls)
            whole, _ = call_times(engine, {"image": x}, {"mean": into}, effort.timed_calls)
            medians[int8] = float(np.median(whole)) / 1e3
            layers[int8] = with_times(engine.layers(), engine.time_layers({"image": x}, runs=10))
    print(f"{device.name}, TensorRT {library.version}: float16 {medians[False]:.1f} us, int8 {medians[True]:.1f} us")
    if medians[True] > medians[False]:
        wanted = [f"conv{index}" for index in range(6)]
        print("\n".join(compare(layers[True], layers[False], wanted=wanted).lines()))
    assert min(medians.values()) > 0


def test_gpu_time_is_reported_as_trtexec_takes_it(engines: Engines, device: Device, effort: Effort) -> None:
    with opened(engines()) as engine:
        taken = time_on_gpu(engine, {"image": images(1)}, least_ns=effort.gpu_ns // 3)
    found = taken.to_json()
    print(f"{device.name}: GPU time {found['compute_percentiles_ns']} ns, {taken.warnings()}")
    assert min(taken.compute_ns) > 0
