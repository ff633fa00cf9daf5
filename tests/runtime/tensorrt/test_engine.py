"""An engine that is open, on CUDA without a GPU: what it computes, what it takes and gives back, and what it refuses."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.fake_cuda import H200, ORIN, Code, FakeBindings, FakeDriver
from tests.runtime.tiny_bundle import WEIGHTS, tiny_model

from enginewright_runtime.backends import backend
from enginewright_runtime.backends.onnx_model import node_names
from enginewright_runtime.errors import BackendMissing, EngineError
from enginewright_runtime.tensorrt import cuda
from enginewright_runtime.tensorrt.cuda import open_cuda

SETTINGS: dict[str, Any] = {"sizes": {"batch": [1, 1, 8]}}


def opened(**settings: Any) -> Any:
    chosen = backend("tensorrt")
    return chosen.open(chosen.compile(tiny_model(), {**SETTINGS, **settings}), {**SETTINGS, **settings})


def sample(batch: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, 4)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ WEIGHTS, 0)


@pytest.mark.parametrize("through", ["cuda.bindings", "pycuda"])
def test_it_computes_through_either_library(install: Any, version: str, through: str) -> None:
    install(version, through=through)
    engine = opened()
    for batch in (1, 3, 8, 1):
        x = sample(batch, seed=batch)
        np.testing.assert_allclose(engine.run({"x": x})["y"], expected(x), rtol=1e-6)
    engine.close()


def test_it_says_what_it_takes_and_gives(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    assert [str(spec) for spec in (*engine.inputs, *engine.outputs)] == ["x: float32 [?, 4]", "y: float32 [?, 3]"]


def test_outputs_of_an_inference_stay_as_they_are_during_the_next(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    first, second = sample(2, seed=1), sample(2, seed=2)
    kept = engine.run({"x": first})["y"]
    engine.run({"x": second})
    np.testing.assert_allclose(kept, expected(first), rtol=1e-6)


def test_on_a_gpu_that_shares_its_memory_nothing_is_copied(install: Any) -> None:
    world = install("10.3.0", on=ORIN).world
    engine = opened()
    x = sample(4)
    np.testing.assert_allclose(engine.run({"x": x})["y"], expected(x), rtol=1e-6)
    assert not [call for call in world.cuda.calls if "Memcpy" in call or call == "cuMemAlloc"]


def test_ten_thousand_inferences_take_no_memory_and_closing_gives_all_back(install: Any) -> None:
    cuda = install("10.3.0").world.cuda
    engine = opened()
    x, y = sample(2), np.empty((2, 3), np.float32)
    engine.run_into({"x": x}, {"y": y})
    live, cuda.calls[:] = set(cuda.live), []
    for _ in range(10_000):
        engine.run_into({"x": x}, {"y": y})
    assert set(cuda.live) == live
    assert set(cuda.calls) == {"cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize"}
    np.testing.assert_allclose(y, expected(x), rtol=1e-6)
    engine.close()
    assert cuda.live == {}


@pytest.mark.parametrize("through", ["cuda.bindings", "pycuda"])
def test_the_memory_that_an_open_engine_takes_on_the_gpu_can_be_seen(install: Any, through: str) -> None:
    install("10.3.0", through=through)
    cuda = open_cuda()
    before = cuda.free_bytes()
    engine = opened()
    taken = before - cuda.free_bytes()
    assert taken >= 8 * (4 + 3) * 4  # the largest batch of x and y in float32
    engine.close()
    assert cuda.free_bytes() == before
    cuda.free()


@pytest.mark.parametrize("through", ["cuda.bindings", "pycuda"])
def test_a_captured_graph_is_launched_until_the_shapes_change(install: Any, version: str, through: str) -> None:
    world = install(version, through=through).world
    engine = opened(cuda_graph=True)
    kept = []
    for seed, batch in enumerate((1, 1, 4, 4, 4, 1)):
        x = sample(batch, seed=seed)
        np.testing.assert_allclose(engine.run({"x": x})["y"], expected(x), rtol=1e-6)
        kept.append(len(world.cuda.live))
    assert len(set(kept)) == 1  # one graph at a time
    if through == "cuda.bindings":
        assert world.cuda.calls.count("cuGraphInstantiate") == 3
        assert world.cuda.calls.count("cuGraphLaunch") == 6
    engine.close()
    assert world.cuda.live == {}


@pytest.mark.parametrize("through", ["cuda.bindings", "pycuda"])
def test_what_breaks_a_capture_is_told_and_not_that_it_is_broken(
    install: Any, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that cannot be captured: TensorRT's own words, and the fix."""
    module = install("10.3.0", through=through)
    bindings = module.world.cuda
    ended: list[int] = []

    def refuse(stream: Any, *graph: Any) -> Any:
        bindings.recording = None
        ended.append(901)
        return 901 if graph else (Code.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None)

    def execute(context: Any, stream_handle: int) -> bool:
        if bindings.recording is None:
            return True
        said = "Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)"
        module.world.logger.log(module.ILogger.Severity.ERROR, said)
        return False

    driver = FakeDriver(bindings, H200)
    monkeypatch.setattr(driver, "cuStreamEndCapture", refuse)
    monkeypatch.setattr(bindings, "cuStreamEndCapture", refuse, raising=False)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(module.IExecutionContext, "execute_async_v3", execute)
    engine = opened(cuda_graph=True)
    with pytest.raises(EngineError, match=r"operation not permitted(?s:.*)leave out cuda_graph of the target"):
        engine.run({"x": sample(1)})
    assert ended == [901]


def test_several_engines_on_one_gpu_have_streams_and_memory_of_their_own(install: Any) -> None:
    install("10.3.0")
    one, other = opened(), opened()
    x = sample(2)
    one.run({"x": x})
    one.close()
    np.testing.assert_allclose(other.run({"x": x})["y"], expected(x), rtol=1e-6)


def test_several_threads_may_use_one_engine(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    wrong: list[int] = []

    def work(seed: int) -> None:
        for step in range(50):
            x = sample(1 + (seed + step) % 4, seed=seed * 100 + step)
            if not np.allclose(engine.run({"x": x})["y"], expected(x)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_number_without_dimensions_is_refused_like_any_other_shape(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    with pytest.raises(EngineError, match=r"has the shape \[\], and the engine was built for \[1, 4\]"):
        engine.run({"x": np.float32(1)[()]})


def test_layers_of_one_name_are_timed_each(install: Any) -> None:
    layers = [{"Name": "conv", "ms": 0.2}, {"Name": "relu", "ms": 0.1}, {"Name": "conv", "ms": 0.5}]
    install("10.3.0", layers={name: layers for name, _ in node_names(tiny_model())})
    times = opened().time_layers({"x": sample(1)}, runs=3)
    assert times == {"conv": (200_000, 500_000), "relu": (100_000,)}


@pytest.mark.parametrize("through", ["cuda.bindings", "pycuda"])
def test_each_thread_enters_the_context_though_the_system_gives_its_number_again(install: Any, through: str) -> None:
    """Threads that follow one another mostly have the same number."""
    world = install("10.3.0", through=through).world
    engine = opened()
    before = world.cuda.calls.count("cuCtxSetCurrent")
    for _ in range(5):
        thread = threading.Thread(target=engine.run, args=({"x": sample(1)},))
        thread.start()
        thread.join()
    assert world.cuda.calls.count("cuCtxSetCurrent") - before == 5


def test_no_thread_ends_with_a_context_on_pycudas_stack(install: Any) -> None:
    """pycuda ends the process there."""
    world = install("10.3.0", through="pycuda").world
    left: list[int] = []

    def work() -> None:
        engine = opened()
        engine.time_once({"x": sample(1)})
        left.append(world.pycuda.depth)
        engine.close()
        left.append(world.pycuda.depth)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert left == [0, 0]


def test_a_context_that_the_application_has_in_pycuda_is_not_current_while_the_engine_runs(install: Any) -> None:
    """As with pycuda.autoinit: whatever is popped from pycuda's stack makes the application's current again."""
    world = install("10.3.0", through="pycuda").world
    current: list[str] = []
    context = world.pycuda.Device(0).retain_primary_context()
    pop = context.pop
    context.pop = lambda: (pop(), current.append("application's"))
    world.pycuda.Device = lambda index: SimpleNamespace(retain_primary_context=lambda: context)
    driver = cuda.ctypes.CDLL("libcuda.so.1")
    driver.cuCtxSetCurrent = lambda handle: current.append("ours") or 0
    engine = opened()
    engine.run({"x": sample(1)})
    engine.time_once({"x": sample(1)})
    assert current[-1] == "ours"


def test_a_shape_outside_the_profile_is_refused_and_the_engine_goes_on(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    with pytest.raises(EngineError) as caught:
        engine.run({"x": sample(9)})
    assert str(caught.value) == (
        "the input 'x' has the shape [9, 4], and the engine was built for [1, 4] to [8, 4]\n"
        "  fix: split the samples: 8 at a time (enginewright-runtime run --batch 8)"
    )
    with pytest.raises(EngineError) as caught:
        engine.run({"x": np.zeros((2, 5), np.float32)})
    assert (
        caught.value.hint == "give it inputs of these sizes, or build it for others: the recipe's model.inputs has them"
    )
    x = sample(8)
    np.testing.assert_allclose(engine.run({"x": x})["y"], expected(x), rtol=1e-6)


def test_an_array_for_the_output_must_have_its_shape(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    with pytest.raises(EngineError, match=r"'y' is float32 \[2, 3\], and the array for it float32 \[3, 3\]"):
        engine.run_into({"x": sample(2)}, {"y": np.empty((3, 3), np.float32)})


def test_a_closed_engine_is_refused_and_closing_again_does_nothing(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run({"x": sample(1)})


def test_an_engine_of_another_version_is_refused_before_it_is_deserialized(install: Any) -> None:
    install("10.13.3")
    engine = backend("tensorrt").compile(tiny_model(), SETTINGS)
    install("10.3.0", fails=("deserialize",))
    with pytest.raises(EngineError, match=r"built by TensorRT 10\.13\.3\.0, and 10\.3\.0 is installed here"):
        backend("tensorrt").open(engine, SETTINGS)


def test_bytes_that_are_no_engine_are_refused(install: Any) -> None:
    install("10.3.0")
    for data in (b"", b"ftrt", b"PK\x03\x04" + bytes(60)):
        with pytest.raises(EngineError, match="no engine of TensorRT, or it was cut short"):
            backend("tensorrt").open(data, SETTINGS)
    with pytest.raises(EngineError, match="an engine of TensorRT-RTX, and TensorRT was to open it"):
        backend("tensorrt").open(b"vtrt" + bytes(60), SETTINGS)


def test_an_engine_that_cannot_be_opened_says_what_tensorrt_said(install: Any) -> None:
    install("10.3.0")
    engine = backend("tensorrt").compile(tiny_model(), SETTINGS)
    install("10.3.0", fails=("deserialize",), says=("Serialization assertion stdVersionRead == failed",))
    with pytest.raises(EngineError, match="could not deserialize the engine; it says:\n  Serialization assertion"):
        backend("tensorrt").open(engine, SETTINGS)


@pytest.mark.parametrize("through", ["cuda.bindings", "pycuda"])
def test_a_gpu_without_memory_is_told_with_what_to_do_and_keeps_nothing(install: Any, through: str) -> None:
    world = install("10.3.0", limit_bytes=100, through=through).world  # the input's 128 bytes do not fit
    with pytest.raises(EngineError) as caught:
        opened()
    told = {
        "cuda.bindings": "cuMemHostAlloc gives 2 (CUDA_ERROR_OUT_OF_MEMORY)",
        "pycuda": "mem_alloc failed: cuMemAlloc failed: out of memory",
    }
    assert str(caught.value) == (
        f"CUDA: {told[through]}\n  fix: close other sessions, or lower the largest batch that the engine is built for"
    )
    assert world.cuda.live == {}
    assert through == "cuda.bindings" or world.pycuda.depth == 0


@pytest.mark.parametrize("fails", ["runtime", "deserialize", "context"])
def test_an_engine_that_does_not_open_leaves_nothing_on_the_gpu(install: Any, fails: str) -> None:
    install("10.3.0")
    engine = backend("tensorrt").compile(tiny_model(), SETTINGS)
    world = install("10.3.0", fails=(fails,), says=("Cuda Runtime (out of memory)",)).world
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 could not"):
        backend("tensorrt").open(engine, SETTINGS)
    assert world.cuda.live == {}


def test_a_gpu_that_another_process_has_to_itself_is_told(install: Any) -> None:
    world = install("10.3.0").world
    engine = backend("tensorrt").compile(tiny_model(), SETTINGS)
    world.cuda.refuses = {"cuDevicePrimaryCtxRetain": Code.CUDA_ERROR_DEVICE_UNAVAILABLE}
    with pytest.raises(EngineError) as caught:
        backend("tensorrt").open(engine, SETTINGS)
    assert str(caught.value) == (
        "CUDA: cuDevicePrimaryCtxRetain gives 46 (CUDA_ERROR_DEVICE_UNAVAILABLE)\n"
        "  fix: another process has the GPU to itself: see nvidia-smi; measuring takes processes of its own, so its compute "
        "mode must be Default (sudo nvidia-smi -c 0)"
    )


def test_what_fails_in_pycuda_is_an_error_of_ours(install: Any) -> None:
    world = install("10.3.0", through="pycuda").world
    engine = opened()

    def fails(*arguments: object) -> None:
        raise RuntimeError("cuMemcpyHtoDAsync failed: an illegal memory access was encountered")

    world.pycuda.memcpy_htod_async = fails
    with pytest.raises(
        EngineError, match="CUDA: memcpy_htod_async failed: cuMemcpyHtoDAsync failed: an illegal"
    ) as caught:
        engine.run({"x": sample(1)})
    assert caught.value.hint == ""


def test_without_a_cuda_library_the_extra_is_named(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3.0")
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(BackendMissing) as caught:
        opened()
    assert caught.value.hint == "pip install 'enginewright-runtime[cuda]'"
    assert caught.value.message.startswith("neither pycuda nor cuda.bindings can be imported: pycuda.driver: import of")


def test_a_pycuda_that_breaks_on_import_is_passed_over_and_named_where_nothing_else_is_there(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One built for another numpy, say, which raises neither ImportError nor OSError."""
    install("10.3.0")
    monkeypatch.setattr(cuda, "import_module", _broken_pycuda)
    engine = opened()
    np.testing.assert_allclose(engine.run({"x": sample(1)})["y"], expected(sample(1)), rtol=1e-6)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(BackendMissing) as caught:
        opened()
    assert "pycuda.driver: module compiled against API version 0x10" in caught.value.message


def _broken_pycuda(name: str) -> Any:
    if name == "pycuda.driver":
        raise RuntimeError("module compiled against API version 0x10 but this version of numpy is 0xf")
    return import_module(name)


def test_the_layers_of_an_open_engine_are_told(install: Any, version: str) -> None:
    install(version)
    [layer] = opened().layers()
    assert (layer.nodes, layer.precision, layer.writes) == (("conv1", "relu1"), "int8", "float16")
    assert layer.multiplies
    assert not layer.reformat


def test_needs_and_misfits_name_what_differs(install: Any) -> None:
    chosen = backend("tensorrt")
    install("10.3.0", on=ORIN)
    needs = chosen.requires()
    assert needs["compute_capability"] == "8.7"
    assert chosen.misfit(needs) == ""
    assert chosen.fingerprint(needs).startswith("tensorrt-10.3.0-sm87-")
    assert chosen.fingerprint(needs).endswith("-orin-16sm")
    install("10.13.3", on=ORIN)
    assert "it needs TensorRT 10.3.0, and 10.13.3 is installed" in chosen.misfit(needs)
    install("10.3.0", on=H200)
    assert "it needs compute capability 8.7, and the NVIDIA H200 here has 9.0" in chosen.misfit(needs)
    assert "was tuned on a Orin" in chosen.misfit({**needs, "compute_capability": "9.0"})
    assert "does not know" in chosen.misfit({**needs, "moon": "full"})


def test_an_engine_of_another_model_with_the_same_name_does_not_fit(install: Any) -> None:
    chosen = backend("tensorrt")
    install("10.3.0", on=ORIN)
    needs = chosen.requires()
    install("10.3.0", on=replace(ORIN, sm_count=8))
    assert chosen.fingerprint(chosen.requires()) != chosen.fingerprint(needs)
    assert chosen.misfit(needs) == (
        "it was built with 16 SMs, and the Orin here has 8: it is another model, or its power mode switches SMs off "
        "(nvpmodel -q): compile it here"
    )
    needs = chosen.requires()
    install("10.3.0", on=ORIN)
    assert "or the engine was built in a power mode that switches SMs off: compile it here" in chosen.misfit(needs)


def test_an_engine_from_before_sms_were_told_still_runs(install: Any) -> None:
    chosen = backend("tensorrt")
    install("10.3.0", on=ORIN)
    old = {name: need for name, need in chosen.requires().items() if name != "sm_count"}
    assert chosen.misfit(old) == ""
    assert chosen.fingerprint(old).endswith("-orin")


@pytest.mark.parametrize("through", ["cuda.bindings", "pycuda"])
def test_an_inference_is_timed_between_events_around_its_three_parts(install: Any, through: str) -> None:
    install("10.3.0", through=through)
    engine = opened()
    taken = engine.time_once({"x": sample(2)})
    assert taken[:3] == (250_000, 250_000, 250_000)
    assert taken[3] > 0
    engine.close()


def test_timing_takes_its_events_once_and_gives_them_back(install: Any) -> None:
    cuda = install("10.3.0").world.cuda
    engine = opened()
    for _ in range(20):
        engine.time_once({"x": sample(2)})
    assert cuda.calls.count("cuEventCreate") == 4
    engine.close()
    assert cuda.live == {}


def test_the_memory_that_it_took_on_the_gpu_is_told(install: Any) -> None:
    install("10.3.0")
    engine = opened()
    assert (
        engine.gpu_bytes() == 8 * (4 + 3) * 4
    )  # inputs and outputs of the largest batch; a fake engine has no weights


def test_of_a_gpu_that_shares_its_memory_what_is_resident_does_not_count_twice(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.3.0", on=ORIN)
    from enginewright_runtime.tensorrt import engine as module

    free, resident = iter([900, 500, 500]), iter([100, 250, 600])
    monkeypatch.setattr(FakeBindings, "_cuMemGetInfo", lambda self: (next(free), 1 << 30))
    monkeypatch.setattr(module, "read_resident_bytes", lambda pid: next(resident))
    engine = opened()
    assert engine.gpu_bytes() == 400 - 150
    assert engine.gpu_bytes() == 0  # more has become resident than was taken: others gave memory back


def test_a_computation_is_timed_as_a_graph_of_its_own_without_the_copies(install: Any) -> None:
    cuda = install("10.3.0").world.cuda
    engine = opened(cuda_graph=True)
    engine.run({"x": sample(1)})
    engine.time_once({"x": sample(1)})
    del cuda.calls[:]
    engine.time_once({"x": sample(1)})
    assert [name for name in cuda.calls if "Record" not in name and "Elapsed" not in name] == [
        "cuMemcpyHtoDAsync",
        "cuGraphLaunch",
        "cuMemcpyDtoHAsync",
        "cuStreamSynchronize",
    ]
