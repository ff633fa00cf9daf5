"""What the onnxruntime backend compiles, opens and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtime.tiny_bundle import SETTINGS, tiny_golden, tiny_model

from enginewright_runtime.backends import BACKENDS, backend
from enginewright_runtime.backends import onnxruntime as module
from enginewright_runtime.backends.onnxruntime import Settings
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import BackendMissing, EngineError
from enginewright_runtime.manifest import TensorSpec

ORT = backend("onnxruntime")


def test_a_compiled_engine_opens_and_computes_what_the_model_says() -> None:
    engine = ORT.open(ORT.compile(tiny_model(), SETTINGS), SETTINGS)
    assert engine.inputs == (TensorSpec("x", ("batch", 4), "float32"),)
    assert engine.outputs == (TensorSpec("y", ("batch", 3), "float32"),)
    golden = tiny_golden()
    assert all(output.agrees for output in golden.compare(engine.run(golden.inputs)))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, False),
        ({"optimization": "basic"}, False),
        ({"optimization": "none"}, True),
        ({"optimization": "basic", "disable": ["EliminateIdentity"]}, True),
    ],
)
def test_the_engine_is_the_graph_after_the_optimizers_that_were_asked_for(
    settings: dict[str, Json], kept: bool
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["copy"]), helper.make_node("Abs", ["copy"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    assert (b"Identity" in ORT.compile(model, settings)) is kept


def test_session_configuration_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("onnxruntime")
    seen: list[Any] = []

    class Recorded(library.InferenceSession):  # type: ignore[misc, name-defined] # the library carries no types
        def __init__(self, model: bytes, options: object, **rest: object) -> None:
            seen.append(options)
            super().__init__(model, options, **rest)

    monkeypatch.setattr(library, "InferenceSession", Recorded)
    ORT.open(ORT.compile(tiny_model(), {}), {"threads": 3, "config": {"session.intra_op.allow_spinning": "0"}})
    options = seen[-1]
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.graph_optimization_level == library.GraphOptimizationLevel.ORT_DISABLE_ALL


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thread": 1}, "unknown key 'thread'; known: config, disable, optimization, threads"),
        ({"threads": 0}, "threads'] must be at least 1, got 0"),
        ({"threads": "1"}, "must be a whole number, got '1'"),
        ({"optimization": "most"}, "must be one of none, basic, extended, all, got 'most'"),
        ({"disable": "Fusion"}, "must be a list, got 'Fusion'"),
        ({"config": {"a": 1}}, "must be text, got 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError) as caught:
        Settings.parse(settings)  # type: ignore[arg-type] # wrong on purpose
    assert message in caught.value.message


def test_the_library_s_own_words_are_kept() -> None:
    with pytest.raises(EngineError, match=r"onnxruntime could not compile the model: .*[Pp]rotobuf"):
        ORT.compile(b"not a model", {})
    with pytest.raises(EngineError, match=r"onnxruntime could not open the engine: .*[Pp]rotobuf"):
        ORT.open(b"not a model", {})
    engine = ORT.open(tiny_model(), {})
    with pytest.raises(EngineError, match=r"onnxruntime could not run the engine: (?s:.*)Got: 5 Expected: 4"):
        engine.run({"x": np.zeros((1, 5), np.float32)})


def test_an_input_of_text_is_refused_when_opening() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "text",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(EngineError, match=r"x is a tensor\(string\), and only tensors of numbers are run"):
        ORT.open(model, {})


@pytest.mark.parametrize("location", ["weights.bin", "../folder/weights.bin"])
def test_an_engine_cannot_take_its_weights_from_a_file_of_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(48))
    monkeypatch.chdir(folder)
    model = onnx.load_model_from_string(tiny_model())
    [weights] = model.graph.initializer
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    for refused in (ORT.open, ORT.compile):
        with pytest.raises(EngineError, match="onnxruntime could not"):
            refused(model.SerializeToString(), {})


def test_a_closed_engine_says_that_it_is_closed() -> None:
    engine = ORT.open(tiny_model(), {})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.run({"x": np.zeros((1, 4), np.float32)})


def test_an_engine_made_here_fits_here() -> None:
    requires = ORT.requires()
    assert ORT.misfit(requires) == ""
    assert requires["onnxruntime"] == metadata.version("onnxruntime")


SERVER = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16")
OLDER_SERVER = ("avx2", "avx512f", "avx512_vnni")
LAPTOP = ("avx2", "avx_vnni")
OLD_LAPTOP = ("avx2",)


@pytest.mark.parametrize(
    ("made_on", "slug", "fits", "not_on"),
    [
        (SERVER, "avx512_vnni", [OLDER_SERVER], {LAPTOP: "lacks", OLD_LAPTOP: "lacks"}),
        (OLDER_SERVER, "avx512_vnni", [SERVER], {LAPTOP: "lacks"}),
        (LAPTOP, "avx_vnni", [], {SERVER: "AVX-512", OLD_LAPTOP: "lacks"}),
        (OLD_LAPTOP, "avx2", [LAPTOP], {SERVER: "AVX-512"}),
    ],
)
def test_an_engine_runs_where_numbers_and_layouts_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
    made_on: tuple[str, ...],
    slug: str,
    fits: list[tuple[str, ...]],
    not_on: dict[tuple[str, ...], str],
) -> None:
    monkeypatch.setattr(module, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "instruction_sets", lambda: made_on)
    requires = ORT.requires()
    assert ORT.fingerprint(requires) == f"onnxruntime-{requires['onnxruntime']}-x86_64-{slug}"
    for present in [made_on, *fits]:
        monkeypatch.setattr(module, "instruction_sets", lambda present=present: present)
        assert ORT.misfit(requires) == ""
    for present, reason in not_on.items():
        monkeypatch.setattr(module, "instruction_sets", lambda present=present: present)
        assert reason in ORT.misfit(requires)


def test_another_version_architecture_or_unknown_need_does_not_fit() -> None:
    requires = ORT.requires()
    assert ORT.misfit({**requires, "onnxruntime": "1.0.0"}).startswith("it needs onnxruntime 1.0.0, and ")
    assert "it was made for sparc" in ORT.misfit({**requires, "machine": "sparc"})
    assert "requires 'gpu', which this runtime does not know" in ORT.misfit({**requires, "gpu": "1"})


def test_asking_what_is_needed_does_not_import_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert ORT.misfit(ORT.requires()) == ""


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    install = "pip install 'enginewright-runtime[onnxruntime]'"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing, match="onnxruntime cannot be imported") as caught:
        ORT.compile(tiny_model(), {})
    assert caught.value.hint == install

    def not_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    with pytest.raises(BackendMissing, match="onnxruntime is not installed") as caught:
        ORT.requires()
    assert caught.value.hint == install


def test_the_library_is_told_to_report_nothing_home(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry leaves a file named .ses in the temporary folder, as soon as it is loaded."""
    program = (
        "from enginewright_runtime.backends import backend; backend('onnxruntime').compile(open(0, 'rb').read(), {})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2] / "runtime"), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], input=tiny_model(), env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_every_backend_in_the_table_exists_under_its_name() -> None:
    for name in BACKENDS:
        assert backend(name).name == name
    with pytest.raises(EngineError, match="unknown backend 'tpu'; this runtime has onnxruntime"):
        backend("tpu")
