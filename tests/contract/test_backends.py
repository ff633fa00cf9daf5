"""What every backend promises (enginewright_runtime.backends.protocol), on every backend of the table.

A new backend passes these before anything else is written for it. What is one backend's own is in
tests/runtime/test_backends.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import onnx
import pytest
from tests.contract import backend_networks as networks
from tests.contract.backend_networks import Arrays, expected, normal

from enginewright.graph.dialects import DIALECTS, backend_dialect
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright.target import Target
from enginewright_runtime import host
from enginewright_runtime.backends import BACKENDS, Backend, OpenEngine, backend
from enginewright_runtime.errors import BackendMissing, EngineError
from enginewright_runtime.manifest import TensorSpec
from enginewright_runtime.npz import read_npz, write_npz

REPOSITORY = Path(__file__).parents[2]
ONE_THREAD = {"threads": 1}


@pytest.fixture(params=sorted(BACKENDS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def only_on_a_processor(name: str) -> None:
    """What runs on a GPU takes other settings, and has tests of its own: tests/runtime/tensorrt and tests/gpu."""
    if name.startswith("tensorrt"):
        pytest.skip("it runs on a GPU: see tests/runtime/tensorrt and tests/gpu")


@pytest.fixture
def chosen(name: str) -> Backend:
    """The backend, where its library is installed."""
    only_on_a_processor(name)
    found = backend(name)
    try:
        found.compile(networks.linear().SerializeToString(), ONE_THREAD)
    except BackendMissing as error:
        pytest.skip(f"{error.message}: {error.hint}")
    return found


def opened(chosen: Backend, network: onnx.ModelProto, *, threads: int = 1) -> OpenEngine:
    settings = {"threads": threads}
    return chosen.open(chosen.compile(network.SerializeToString(), settings), settings)


def agree(actual: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], *, tolerance: float = 1e-4) -> None:
    """The same names in the same order, dtypes and shapes, and values within a share of the largest."""
    assert list(actual) == list(wanted)
    for key, values in wanted.items():
        assert (actual[key].dtype, actual[key].shape) == (values.dtype, values.shape), key
        if values.dtype.kind == "f":
            atol = tolerance * float(np.abs(values.astype(np.float64)).max(initial=0.0))
            np.testing.assert_allclose(actual[key], values, rtol=0, atol=atol)
        else:
            np.testing.assert_array_equal(actual[key], values)


def runs_as_expected(chosen: Backend, network: onnx.ModelProto, inputs: Arrays, *, tolerance: float = 1e-4) -> None:
    agree(opened(chosen, network).run(inputs), expected(network, inputs), tolerance=tolerance)


# The table, and what a backend says of itself.


def test_a_backend_is_in_the_table_under_its_name(name: str) -> None:
    assert backend(name).name == name
    assert re.fullmatch(r"[a-z0-9_]+", name)


def test_a_backend_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(EngineError, match=f"unknown backend 'tpu'; this runtime has {', '.join(sorted(BACKENDS))}"):
        backend("tpu")


def test_the_extra_of_a_backend_is_one_of_the_runtime(name: str) -> None:
    declared = (REPOSITORY / "runtime/pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert re.search(rf"^{backend(name).extra} = \[", declared.partition("\n[")[0], flags=re.MULTILINE)


def test_every_backend_that_a_target_may_name_is_one_of_the_runtime() -> None:
    assert set(get_args(get_type_hints(Target)["backend"])) <= set(BACKENDS)


@pytest.mark.parametrize("instructions", [(), ("avx2",), ("avx2", "avx_vnni"), ("avx512f", "avx512_vnni", "amx_int8")])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_a_backend_has_a_dialect_on_every_machine(name: str, machine: str, instructions: tuple[str, ...]) -> None:
    assert backend_dialect(name, machine, instructions) in DIALECTS


def test_what_an_engine_needs_is_text_and_is_given_here(chosen: Backend) -> None:
    requires = chosen.requires()
    assert all(isinstance(key, str) and isinstance(need, str) for key, need in requires.items())
    assert requires == chosen.requires()
    assert chosen.misfit(requires) == ""


def test_equal_needs_have_one_fingerprint_that_is_safe_in_a_path(chosen: Backend) -> None:
    requires = chosen.requires()
    fingerprint = chosen.fingerprint(requires)
    assert fingerprint == chosen.fingerprint(dict(reversed(requires.items())))
    assert re.fullmatch(rf"{chosen.name}-[A-Za-z0-9._+-]+", fingerprint)
    assert len(fingerprint) <= 200
    assert chosen.fingerprint({**requires, chosen.name: "0.0.1"}) != fingerprint


def test_needs_that_this_machine_does_not_meet_are_told(chosen: Backend) -> None:
    requires = chosen.requires()
    assert "sparc" in chosen.misfit({**requires, "machine": "sparc"})
    assert "0.0.1" in chosen.misfit({**requires, chosen.name: "0.0.1"})
    assert "'flux', which this runtime does not know" in chosen.misfit({**requires, "flux": "1"})


ASK = """
import sys
from enginewright_runtime.backends import backend
before = set(sys.modules)
chosen = backend(sys.argv[1])
requires = chosen.requires()
assert (chosen.misfit(requires), bool(chosen.fingerprint(requires))) == ("", True)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - {"enginewright_runtime", "numpy", *sys.stdlib_module_names}))
"""


def test_asking_what_is_needed_loads_no_library(chosen: Backend) -> None:
    asked = python(ASK, chosen.name)
    assert asked == ("[]\n", "")


WITHOUT_LIBRARIES = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"enginewright_runtime", "numpy", *sys.stdlib_module_names}:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocked())
from enginewright_runtime.backends import backend
from enginewright_runtime.errors import BackendMissing
chosen, model = backend(sys.argv[1]), open(sys.argv[2], "rb").read()
try:
    chosen.compile(model, {"threads": 1})
except BackendMissing as error:
    print(error.hint)
"""


def test_a_missing_library_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only_on_a_processor(name)
    install = f"pip install 'enginewright-runtime[{backend(name).extra}]'"
    (tmp_path / "model").write_bytes(networks.linear().SerializeToString())
    assert python(WITHOUT_LIBRARIES, name, str(tmp_path / "model")) == (f"{install}\n", "")
    monkeypatch.setattr(metadata, "version", _not_installed)
    with pytest.raises(BackendMissing, match="not installed") as caught:
        backend(name).requires()
    assert caught.value.hint == install


def test_an_engine_that_would_fit_but_for_its_library_says_that_it_is_missing(
    chosen: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires = chosen.requires()
    monkeypatch.setattr(metadata, "version", _not_installed)
    with pytest.raises(BackendMissing, match="not installed"):
        chosen.misfit(requires)


def _not_installed(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thread": 1}, "unknown key 'thread'; known: "),
        ({"threads": 0}, "threads'] must be at least 1, got 0"),
        ({"threads": "1"}, "must be a whole number, got '1'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(chosen: Backend, settings: dict[str, object], message: str) -> None:
    network = networks.linear().SerializeToString()
    engine = chosen.compile(network, {})
    for refused in (lambda: chosen.compile(network, settings), lambda: chosen.open(engine, settings)):  # type: ignore[arg-type] # wrong on purpose
        with pytest.raises(EngineError) as caught:
            refused()
        assert message in caught.value.message


# What an engine says of itself, and what it computes.


def test_an_engine_tells_the_inputs_and_outputs_of_its_network(chosen: Backend) -> None:
    engine = opened(chosen, networks.several())
    assert engine.inputs == (
        TensorSpec("right", ("batch", 5), "float32"),
        TensorSpec("left", ("batch", 5), "float32"),
    )
    assert engine.outputs == (
        TensorSpec("twice", ("batch", 5), "float32"),
        TensorSpec("mean", ("batch",), "float32"),
        TensorSpec("sum", ("batch", 5), "float32"),
    )
    fixed = opened(chosen, networks.convolutions(batch=2))
    assert fixed.inputs == (TensorSpec("image", (2, 3, 12, 12), "float32"),)
    assert fixed.outputs == (TensorSpec("logits", (2, 10), "float32"),)


def test_a_shape_that_the_model_does_not_say_is_inferred(chosen: Backend) -> None:
    network = networks.free_size()
    engine = opened(chosen, network)
    [output] = engine.outputs
    assert len(output.shape) == 4
    assert (output.shape[1], output.shape[3]) == (2, 6)
    assert isinstance(output.shape[0], str)
    for height in (1, 5, 9):
        inputs = {"x": normal(2, 1, height, 6)}
        agree(engine.run(inputs), expected(network, inputs))


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_a_float_network_agrees_with_the_reference(chosen: Backend, batch: int | str) -> None:
    network = networks.convolutions(batch=batch)
    runs_as_expected(chosen, network, {"image": normal(3 if batch == "batch" else int(batch), 3, 12, 12)})


@pytest.mark.parametrize("samples", [1, 5])
def test_an_int8_network_in_its_dialect_agrees_with_the_reference(chosen: Backend, samples: int) -> None:
    """The kernels of this machine compute what the graph says: nothing saturates, no zero point is lost."""
    dialect = DIALECTS[backend_dialect(chosen.name, host.machine(), host.instruction_sets())]
    network = networks.convolutions(channels=32)
    scales = calibrate(network, tensors_to_calibrate(network), [{"image": normal(32, 3, 12, 12)}], method="minmax")
    quantized = quantize(network, scales, dialect)
    assert "QuantizeLinear" in {node.op_type for node in quantized.graph.node}
    inputs = {"image": normal(samples, 3, 12, 12, seed=5)}
    runs_as_expected(chosen, quantized, inputs, tolerance=0.02)


def test_several_inputs_and_outputs_are_not_mixed_up(chosen: Backend) -> None:
    runs_as_expected(chosen, networks.several(), {"left": normal(3, 5, seed=1), "right": normal(3, 5, seed=2)})


def test_odd_inputs_and_outputs_keep_their_names(chosen: Backend) -> None:
    network, inputs = networks.odd_ends(), {"x": normal(2, 3), "unread": np.int64([1, 2])}
    engine = opened(chosen, network)
    assert [spec.name for spec in engine.inputs] == ["x", "unread"]
    agree(engine.run(inputs), expected(network, inputs))


def test_batches_of_any_size_run_on_one_engine_in_any_order(chosen: Backend) -> None:
    network = networks.convolutions()
    engine = opened(chosen, network)
    for samples in (1, 3, 1, 8, 2, 1):
        inputs = {"image": normal(samples, 3, 12, 12, seed=samples)}
        agree(engine.run(inputs), expected(network, inputs))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "int8", "bool", "float16", "float64"])
def test_a_dtype_is_kept_or_refused_by_name(chosen: Backend, dtype: str) -> None:
    """A backend need not run every dtype, but must not run it wrong."""
    network, inputs = networks.typed(dtype), {"x": networks.values_of(dtype)}
    try:
        engine = opened(chosen, network)
    except EngineError as error:
        refusal = error.message
    else:
        assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == (dtype, dtype)
        agree(engine.run(inputs), expected(network, inputs), tolerance=0.0)
        return
    assert dtype in refusal


def test_whole_numbers_of_64_bits_are_looked_up_and_given_out(chosen: Backend) -> None:
    inputs = {"index": np.int64([5, 0, 3]), "wanted": np.array([[True], [False], [True]])}
    runs_as_expected(chosen, networks.lookup(), inputs)


def test_a_number_beyond_32_bits_comes_out_whole_or_is_refused(chosen: Backend) -> None:
    engine = opened(chosen, networks.typed("int64"))
    inputs = {"x": np.int64([[2**40, -(2**40), 2**31]])}
    try:
        outputs = engine.run(inputs)
    except EngineError as error:
        refusal = error.message
    else:
        agree(outputs, expected(networks.typed("int64"), inputs))
        return
    assert str(2**40) in refusal


def test_bytes_of_a_camera_become_real_numbers(chosen: Backend) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 11
    runs_as_expected(chosen, networks.picture(), {"image": image})


def test_a_product_in_float16_agrees_with_the_reference(chosen: Backend) -> None:
    runs_as_expected(chosen, networks.half(), {"x": normal(2, 4).astype(np.float16)}, tolerance=2e-3)


def test_text_is_refused(chosen: Backend) -> None:
    with pytest.raises(EngineError, match=r"words is a tensor.*only tensors of numbers are run"):
        opened(chosen, networks.text())


# How it runs.


def test_a_result_is_the_caller_s_own(chosen: Backend) -> None:
    engine = opened(chosen, networks.odd_ends())
    first, second = normal(1, 3, seed=1), normal(1, 3, seed=2)
    one = engine.run({"x": first, "unread": np.int64([0, 0])})
    kept = {key: values.copy() for key, values in one.items()}
    two = engine.run({"x": second, "unread": np.int64([0, 0])})
    agree(one, kept, tolerance=0.0)
    for values in [*one.values(), *two.values()]:
        values.fill(0)
    agree(engine.run({"x": first, "unread": np.int64([0, 0])}), kept, tolerance=0.0)
    np.testing.assert_array_equal(first, normal(1, 3, seed=1))


def test_the_inputs_are_left_as_they_were(chosen: Backend) -> None:
    nodes = [onnx.helper.make_node("Relu", ["x"], ["r"]), onnx.helper.make_node("Neg", ["r"], ["y"])]
    network = networks.model(nodes, [networks.value("x", ["batch", 64])], [networks.value("y", ["batch", 64])])
    x = normal(2, 64)
    opened(chosen, network).run({"x": x})
    np.testing.assert_array_equal(x, normal(2, 64))


def test_arrays_that_cannot_be_written_to_or_stand_askew_in_memory_are_taken(chosen: Backend) -> None:
    network, x = networks.linear(), normal(2, 4)
    engine = opened(chosen, network)
    frozen = x.copy()
    frozen.flags.writeable = False
    buffer = bytearray(x.nbytes + 1)
    buffer[1:] = x.tobytes()
    askew = np.frombuffer(buffer, np.float32, offset=1).reshape(x.shape)
    assert not askew.flags.aligned
    for given in (frozen, askew, x[1:]):
        agree(engine.run({"x": given}), expected(network, {"x": np.array(given)}))


def test_an_engine_compiled_opened_and_run_again_gives_the_same_bits(chosen: Backend) -> None:
    network, inputs = networks.convolutions(), {"image": normal(2, 3, 12, 12)}
    engine = opened(chosen, network)
    first = engine.run(inputs)
    for again in (engine, engine, opened(chosen, network)):
        agree(again.run(inputs), first, tolerance=0.0)


def test_threads_that_run_one_engine_at_once_each_get_their_own_result(chosen: Backend) -> None:
    network = networks.convolutions()
    engine = opened(chosen, network)
    inputs = [{"image": normal(1 + seed % 2, 3, 12, 12, seed=seed)} for seed in range(4)]
    alone = [engine.run(each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for one, together in zip(alone * 8, pool.map(engine.run, inputs * 8), strict=True):
            agree(together, one, tolerance=0.0)


def test_closing_twice_is_harmless_and_a_closed_engine_says_so(chosen: Backend) -> None:
    engine = opened(chosen, networks.linear())
    engine.close()
    engine.close()
    for samples in (1, 2):
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.run({"x": normal(samples, 4)})


def test_the_library_s_refusal_of_an_input_is_an_engine_error(chosen: Backend) -> None:
    with pytest.raises(EngineError, match=f"{chosen.name} could not run the engine: "):
        opened(chosen, networks.linear()).run({"x": normal(1, 5)})


# What it opens.


@pytest.mark.parametrize("wrong", [b"", b"\x00", b"not an engine", bytes(4096), b"PK\x05\x06" + bytes(18)])
def test_bytes_that_are_no_engine_are_refused(chosen: Backend, wrong: bytes) -> None:
    with pytest.raises(EngineError):
        chosen.open(wrong, ONE_THREAD)
    with pytest.raises(EngineError):
        chosen.compile(wrong, ONE_THREAD)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_an_engine_that_was_cut_short_is_refused(chosen: Backend, share: float) -> None:
    engine = chosen.compile(networks.convolutions().SerializeToString(), ONE_THREAD)
    with pytest.raises(EngineError):
        chosen.open(engine[: int(share * len(engine))], ONE_THREAD)
    with pytest.raises(EngineError):
        chosen.open(engine[:-1], ONE_THREAD)


@pytest.mark.parametrize("inside", ["graph", "node", "branch"])
@pytest.mark.parametrize("location", ["weights.bin", "../folder/weights.bin", "{folder}/weights.bin"])
def test_no_model_and_no_engine_takes_its_weights_from_a_file_of_its_user(
    chosen: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, inside: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(normal(4, 3).tobytes())
    monkeypatch.chdir(folder)
    network = networks.with_weights_elsewhere(location.format(folder=folder), inside=inside)
    for refused in (chosen.compile, chosen.open):
        with pytest.raises(EngineError):
            refused(network.SerializeToString(), ONE_THREAD)


RUN = """
import sys
from enginewright_runtime.backends import backend
from enginewright_runtime.npz import read_npz, write_npz
name, engine, inputs, outputs = sys.argv[1:]
opened = backend(name).open(open(engine, "rb").read(), {"threads": 1})
given = read_npz(open(inputs, "rb").read())
for count in (1, None):
    results = opened.run({key: values[:count] for key, values in given.items()})
open(outputs, "wb").write(write_npz(results))
"""


def test_an_engine_opens_in_another_process_which_says_nothing_and_leaves_nothing(
    chosen: Backend, tmp_path: Path
) -> None:
    """Neither on its output nor in the folders of its user: libraries that report home leave traces there."""
    network, inputs = networks.convolutions(), {"image": normal(2, 3, 12, 12)}
    files = [tmp_path / part for part in ("engine", "inputs.npz", "outputs.npz")]
    files[0].write_bytes(chosen.compile(network.SerializeToString(), ONE_THREAD))
    files[1].write_bytes(write_npz(inputs))
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    places = {"HOME": str(home), "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(home / "cache")}
    assert python(RUN, chosen.name, *map(str, files), **places) == ("", "")
    agree(read_npz(files[2].read_bytes()), expected(network, inputs))
    assert (list(home.iterdir()), list(temporary.iterdir())) == ([], [])


BUSY = """
import os, sys, threading, time
import numpy
from enginewright_runtime.backends import backend
name, model, threads = sys.argv[1:]
chosen, settings = backend(name), {"threads": int(threads)}
engine = chosen.open(chosen.compile(open(model, "rb").read(), settings), settings)
inputs = {"image": numpy.zeros((16, 3, 12, 12), numpy.float32)}

def ticks():
    # The processor time of each thread: fields 14 and 15 of its stat, behind its name in brackets.
    found = {}
    for thread in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{thread}/stat").read().rpartition(")")[2].split()
        found[int(thread)] = int(fields[11]) + int(fields[12])
    return found

engine.run(inputs)
before, until = ticks(), time.process_time() + 1.5
while time.process_time() < until:
    engine.run(inputs)
after = ticks()
spent = {thread: count - before.get(thread, 0) for thread, count in after.items()}
mine = spent.pop(threading.get_native_id())
print(mine, sum(spent.values()))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the time of a thread is read from Linux's /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_compute_as_the_settings_say(chosen: Backend, tmp_path: Path, threads: int) -> None:
    if threads > host.usable_cores():
        pytest.skip(f"this machine has {host.usable_cores()} processor to run on")
    (tmp_path / "model").write_bytes(networks.convolutions(channels=96).SerializeToString())
    said, _ = python(BUSY, chosen.name, str(tmp_path / "model"), str(threads))
    mine, others = map(int, said.split())
    assert mine > 0
    assert (others <= 0.01 * mine) if threads == 1 else (others >= 0.05 * mine), (mine, others)


def python(program: str, *arguments: str, **environment: str) -> tuple[str, str]:
    """What a program prints to its two streams, run with the runtime alone on its path.

    It is told nothing that this process or CI has told libraries about reporting home.
    """
    silencing = {"CI", "TF_BUILD", "JENKINS_URL"}
    kept = {key: value for key, value in os.environ.items() if key not in silencing and "TELEMETRY" not in key}
    given = {**kept, "PYTHONPATH": str(REPOSITORY / "runtime"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=given, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
