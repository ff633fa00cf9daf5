"""Opening a bundle and running it, and every wrong way to do so."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.tiny_bundle import WEIGHTS, make_bundle, tiny_golden, tiny_manifest

import enginewright_runtime
from enginewright_runtime import BackendMissing, BundleError, EngineError, InputError, NoEngineFits, Session
from enginewright_runtime.backends import Array
from enginewright_runtime.bundle import write_bundle
from enginewright_runtime.manifest import EngineEntry, Manifest, TensorSpec
from enginewright_runtime.session import open_bundle

X = np.ones((2, 4), np.float32)


@pytest.fixture(scope="module")
def session(tiny_path: Path) -> Session:
    """The tiny bundle, open."""
    return enginewright_runtime.open(tiny_path)


def test_a_bundle_runs_and_gives_its_golden_outputs(tiny_path: Path) -> None:
    golden = tiny_golden()
    with enginewright_runtime.open(str(tiny_path)) as session:
        [output] = golden.compare(session.run(golden.inputs))
    assert output.agrees


def test_inputs_and_outputs_are_those_of_the_manifest(session: Session) -> None:
    assert session.inputs == tiny_manifest().inputs
    assert session.outputs == tiny_manifest().outputs


EXPECTED = "input 'x' must be float32 of shape [batch, 4], got "


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (X, "the inputs must be a mapping from names to arrays, got a ndarray\n  fix: session.run({'x': ...})"),
        ([X], "the inputs must be a mapping from names to arrays, got a list\n  fix: session.run({'x': ...})"),
        ({}, "the inputs must be 'x', got none"),
        ({"image": X}, "the inputs must be 'x', got 'image'"),
        ({"x": X, "y": X}, "the inputs must be 'x', got 'x', 'y'"),
        ({"x": X.astype(np.float64)}, f"{EXPECTED}dtype float64\n  fix: x.astype(numpy.float32)"),
        ({"x": X.astype(">f4")}, f"{EXPECTED}dtype >f4\n  fix: x.astype(numpy.float32)"),
        ({"x": X[:, :3]}, f"{EXPECTED}shape [2, 3]"),
        ({"x": X[0]}, f"{EXPECTED}shape [4]"),
        ({"x": X[:0]}, f"{EXPECTED}shape [0, 4], which is empty"),
        ({"x": X.tolist()}, f"{EXPECTED}a list\n  fix: numpy.asarray(x, numpy.float32)"),
        ({"x": None}, f"{EXPECTED}a NoneType\n  fix: numpy.asarray(x, numpy.float32)"),
        ({"x": np.ma.masked_array(X)}, f"{EXPECTED}a MaskedArray\n  fix: numpy.asarray(x)"),
    ],
)
def test_wrong_inputs_are_refused_with_what_was_expected_and_what_came(
    session: Session, inputs: dict[str, Array], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        session.run(inputs)
    assert str(caught.value) == message


def test_an_array_that_is_not_contiguous_is_run_as_what_it_shows(session: Session) -> None:
    wide = np.arange(16, dtype=np.float32).reshape(2, 8)
    came = session.run({"x": wide[:, ::2]})["y"]
    np.testing.assert_allclose(came, wide[:, ::2] @ WEIGHTS)


class Recorder:
    """An engine of two inputs that keeps what it was given."""

    def __init__(self) -> None:
        self.inputs = (TensorSpec("a", ("n", "?"), "float32"), TensorSpec("b", ("n", 2), "float32"))
        self.outputs = (TensorSpec("c", ("n",), "float32"),)
        self.given: dict[str, Array] = {}
        self.closed = False

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self.given = inputs
        return {"c": np.zeros(1, np.float32)}

    def close(self) -> None:
        self.closed = True


def recorded_session() -> tuple[Session, Recorder]:
    """A session on the recorder."""
    engine = Recorder()
    manifest = replace(tiny_manifest(), inputs=engine.inputs, outputs=engine.outputs)
    return Session(manifest, EngineEntry("a", "a", "a", {}, {}), engine), engine  # type: ignore[arg-type] # a double


def test_dimensions_of_one_name_must_be_equal_in_all_inputs() -> None:
    session, _ = recorded_session()
    session.run({"a": np.zeros((3, 9), np.float32), "b": np.zeros((3, 2), np.float32)})
    with pytest.raises(InputError, match="the dimension 'n' must be the same everywhere: it is 3 in 'a' and 4 in 'b'"):
        session.run({"a": np.zeros((3, 9), np.float32), "b": np.zeros((4, 2), np.float32)})


def test_contiguous_arrays_reach_the_engine_without_a_copy() -> None:
    session, engine = recorded_session()
    a, b = np.zeros((3, 9), np.float32), np.zeros((3, 2), np.float32)
    session.run({"b": b, "a": a})
    assert engine.given["a"] is a
    assert engine.given["b"] is b


def test_leaving_the_context_closes_the_engine() -> None:
    session, engine = recorded_session()
    with session:
        pass
    assert engine.closed


def test_a_closed_session_says_so(tiny_path: Path) -> None:
    session = enginewright_runtime.open(tiny_path)
    session.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        session.run({"x": X})


def test_many_calls_with_many_shapes_do_not_pile_up_memory() -> None:
    session, _ = recorded_session()
    tracemalloc.start()
    try:
        for size in range(1, 2_000):
            session.run({"a": np.zeros((size, 1), np.float32), "b": np.zeros((size, 2), np.float32)})
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_threads_may_share_a_session(session: Session) -> None:
    results: list[Array] = []

    def run(scale: float) -> None:
        for _ in range(50):
            came = session.run({"x": X * np.float32(scale)})["y"]
        results.append(came / np.float32(scale))

    threads = [threading.Thread(target=run, args=(scale,)) for scale in (1, 2, 4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    np.testing.assert_allclose(results, np.broadcast_to(X @ WEIGHTS, (4, 2, 3)))


def bundle_with(path: Path, engines: tuple[EngineEntry, ...], manifest: Manifest | None = None) -> Path:
    """A bundle whose engines are `engines`, all of the same few bytes."""
    files = {entry.path: b"an engine" for entry in engines} or {"model.onnx": b"a model"}
    write_bundle(path, replace(manifest or tiny_manifest(), engines=engines), files)
    return path


def test_where_no_engine_fits_each_reason_is_given(tmp_path: Path) -> None:
    here = enginewright_runtime.backends.backend("onnxruntime").requires()
    path = bundle_with(
        tmp_path / "foreign.ewb",
        (
            EngineEntry("old", "onnxruntime", "engines/old/engine", {}, {**here, "onnxruntime": "1.0.0"}),
            EngineEntry("sparc", "onnxruntime", "engines/sparc/engine", {}, {**here, "machine": "sparc"}),
            EngineEntry("tpu", "tpu", "engines/tpu/engine", {}, {}),
        ),
    )
    with pytest.raises(NoEngineFits) as caught:
        enginewright_runtime.open(path)
    first, *reasons = caught.value.message.splitlines()
    assert first == f"{path}: no engine of this bundle runs on this machine"
    assert reasons[0].startswith("  old: it needs onnxruntime 1.0.0, and ")
    assert reasons[1].startswith("  sparc: it was made for sparc, and this machine is ")
    assert reasons[2] == "  tpu: unknown backend 'tpu'; this runtime has onnxruntime, openvino, tensorrt, tensorrt_rtx"


def test_a_bundle_without_an_engine_says_where_its_engine_is_built(tmp_path: Path) -> None:
    with pytest.raises(NoEngineFits, match="it holds none: its engine is built on the device"):
        enginewright_runtime.open(bundle_with(tmp_path / "pending.ewb", ()))


def test_the_first_engine_that_fits_is_taken(tiny_path: Path) -> None:
    bundle = enginewright_runtime.bundle.read_bundle(tiny_path)
    [good] = bundle.manifest.engines
    foreign = replace(good, fingerprint="foreign", requires={**good.requires, "machine": "sparc"})
    manifest = replace(bundle.manifest, engines=(foreign, good))
    assert open_bundle(replace(bundle, manifest=manifest)).entry == good


def test_a_missing_library_is_the_error_where_only_that_is_missing(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing, match="onnxruntime cannot be imported") as caught:
        enginewright_runtime.open(tiny_path)
    assert caught.value.hint == "pip install 'enginewright-runtime[onnxruntime]'"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            replace(tiny_manifest(), inputs=(TensorSpec("image", ("batch", 4), "float32"),)),
            "its manifest declares the inputs 'image', and its engine has 'x'",
        ),
        (
            replace(tiny_manifest(), inputs=(TensorSpec("x", ("batch", 5), "float32"),)),
            "declares the input x: float32 [batch, 5], and its engine has x: float32 [batch, 4]",
        ),
        (
            replace(tiny_manifest(), outputs=(TensorSpec("y", ("batch", 3), "float16"),)),
            "declares the output y: float16 [batch, 3], and its engine has y: float32 [batch, 3]",
        ),
    ],
)
def test_an_engine_that_is_not_what_the_manifest_declares_is_refused(
    tmp_path: Path, manifest: Manifest, message: str
) -> None:
    path = make_bundle(tmp_path / "lying.ewb", manifest=manifest)
    with pytest.raises(BundleError) as caught:
        enginewright_runtime.open(path)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{path}: ")


def test_an_altered_bundle_is_refused_before_its_engine_is_loaded(tiny_path: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered.ewb"
    data = bytearray(tiny_path.read_bytes())
    data[200] ^= 1
    altered.write_bytes(data)
    with pytest.raises(BundleError, match="it was altered"):
        enginewright_runtime.open(altered)
