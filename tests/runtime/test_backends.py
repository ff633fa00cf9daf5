"""What is one backend's own. What every backend promises is tested in tests/contract/test_backends.py."""

from __future__ import annotations

import gzip
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.runtime.tiny_bundle import tiny_golden, tiny_model

from enginewright_runtime.backends import backend, onnxruntime, openvino
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import BackendMissing, EngineError
from enginewright_runtime.stored_zip import encode

ORT = backend("onnxruntime")
OV = backend("openvino")


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


def test_session_configuration_reaches_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
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
        ({"optimization": "most"}, "must be one of none, basic, extended, all, got 'most'"),
        ({"disable": "Fusion"}, "must be a list, got 'Fusion'"),
        ({"config": {"a": 1}}, "must be text, got 1"),
    ],
)
def test_settings_of_onnxruntime_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError) as caught:
        onnxruntime.Settings.parse(settings)  # type: ignore[arg-type] # wrong on purpose
    assert message in caught.value.message


def test_the_words_of_onnxruntime_are_kept() -> None:
    with pytest.raises(EngineError, match=r"onnxruntime could not compile the model: (?s:.*)Gone"):
        ORT.compile(_with_operator("Gone"), {})
    with pytest.raises(EngineError, match=r"onnxruntime could not open the engine: (?s:.*)Gone"):
        ORT.open(_with_operator("Gone"), {})
    engine = ORT.open(tiny_model(), {})
    with pytest.raises(EngineError, match=r"onnxruntime could not run the engine: (?s:.*)Got: 5 Expected: 4"):
        engine.run({"x": np.zeros((1, 5), np.float32)})


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
def test_an_engine_of_onnxruntime_runs_where_numbers_and_layouts_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
    made_on: tuple[str, ...],
    slug: str,
    fits: list[tuple[str, ...]],
    not_on: dict[tuple[str, ...], str],
) -> None:
    monkeypatch.setattr(onnxruntime, "machine", lambda: "x86_64")
    monkeypatch.setattr(onnxruntime, "instruction_sets", lambda: made_on)
    requires = ORT.requires()
    assert requires["onnxruntime"] == metadata.version("onnxruntime")
    assert ORT.fingerprint(requires) == f"onnxruntime-{requires['onnxruntime']}-x86_64-{slug}"
    for present in [made_on, *fits]:
        monkeypatch.setattr(onnxruntime, "instruction_sets", lambda present=present: present)
        assert ORT.misfit(requires) == ""
    for present, reason in not_on.items():
        monkeypatch.setattr(onnxruntime, "instruction_sets", lambda present=present: present)
        assert reason in ORT.misfit(requires)


@pytest.mark.parametrize(
    ("made_on", "slug", "not_on"),
    [(SERVER, "-vnni", [OLD_LAPTOP, ()]), (LAPTOP, "-vnni", [OLD_LAPTOP, ()]), (OLD_LAPTOP, "", [])],
)
def test_an_engine_of_openvino_runs_on_any_processor_whose_8_bit_products_are_as_exact(
    monkeypatch: pytest.MonkeyPatch, made_on: tuple[str, ...], slug: str, not_on: list[tuple[str, ...]]
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: {"openvino": "2026.4.1"}[name])
    monkeypatch.setattr(openvino, "machine", lambda: "x86_64")
    monkeypatch.setattr(openvino, "instruction_sets", lambda: made_on)
    requires = OV.requires()
    assert OV.fingerprint(requires) == f"openvino-2026.4.1-x86_64{slug}"
    for present in (SERVER, OLDER_SERVER, LAPTOP, OLD_LAPTOP, ()):
        monkeypatch.setattr(openvino, "instruction_sets", lambda present=present: present)
        assert bool(OV.misfit(requires)) is (present in not_on)
    assert "needs the instructions sse9, which" in OV.misfit({**requires, "instructions": "sse9"})


class _Core:
    """OpenVINO's core, which remembers what it was asked to compile."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self.compiled: list[tuple[str, dict[str, object]]] = []

    def read_model(self, *arguments: object, **named: object) -> Any:
        return self._core.read_model(*arguments, **named)

    def compile_model(self, network: Any, device: str, properties: dict[str, object]) -> Any:
        self.compiled.append((str(network.inputs[0].get_partial_shape()), properties))
        return self._core.compile_model(network, device, properties)


@pytest.fixture
def installed_openvino() -> None:
    """Loaded by the backend, for a plain import would report home."""
    try:
        openvino._library()
    except BackendMissing as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture
def core(installed_openvino: None, monkeypatch: pytest.MonkeyPatch) -> _Core:
    recorded = _Core(openvino._core())
    monkeypatch.setattr(openvino, "_core", lambda: recorded)
    return recorded


def test_openvino_computes_in_float32_for_latency_and_pins_nothing(core: _Core) -> None:
    OV.open(OV.compile(tiny_model(), {}), {"threads": 2})
    assert core.compiled[-1][1] == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": 2,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


def test_openvino_compiles_a_free_batch_for_one_sample_and_for_all_others_when_one_comes(core: _Core) -> None:
    engine = OV.open(OV.compile(tiny_model(), {}), {})
    assert [shape for shape, _ in core.compiled] == ["[1,4]", "[1,4]"]  # once to see that it can be, once to open
    for samples in (1, 1):
        engine.run({"x": np.ones((samples, 4), np.float32)})
    assert len(core.compiled) == 2
    golden = tiny_golden()
    for _ in range(2):
        assert all(output.agrees for output in golden.compare(engine.run(golden.inputs)))
    assert [shape for shape, _ in core.compiled[2:]] == ["[?,4]"]


@pytest.mark.usefixtures("installed_openvino")
def test_an_engine_of_openvino_is_refused_if_any_byte_of_it_was_changed() -> None:
    engine = bytearray(OV.compile(tiny_model(), {}))
    for position in range(0, len(engine), 7):
        engine[position] ^= 0x55
        with pytest.raises(EngineError, match="openvino could not open the engine: "):
            OV.open(bytes(engine), {})
        engine[position] ^= 0x55
    OV.open(bytes(engine), {}).close()


@pytest.mark.usefixtures("installed_openvino")
def test_what_openvino_says_of_a_network_that_it_cannot_read_is_kept() -> None:
    specs = b'{"inputs":[],"outputs":[]}'
    contents = (specs, gzip.compress(b"<net name='nonsense'/>"), b"")
    engine = b"".join(encode(list(zip(openvino._FILES, contents, strict=True)), comment_bytes=0))
    with pytest.raises(EngineError, match=r"openvino could not open the engine: (?s:.+)"):
        OV.open(engine, {})
    with pytest.raises(EngineError, match=r"openvino could not compile the model: (?s:.*)Gone"):
        OV.compile(_with_operator("Gone"), {})


def test_settings_in_the_words_of_another_backend_are_refused() -> None:
    with pytest.raises(EngineError, match="openvino settings: unknown key 'config'; known: threads"):
        OV.open(b"", {"threads": 1, "disable": [], "config": {}})


TELEMETRY = """
import sys
from enginewright_runtime.backends import backend
backend("openvino").compile(open(0, "rb").read(), {})
print("openvino_telemetry" in sys.modules, sys.modules["openvino"].convert_model.__name__)
"""


@pytest.mark.usefixtures("installed_openvino")
def test_openvino_is_loaded_whole_but_for_what_reports_home() -> None:
    runtime = str(Path(__file__).parents[2] / "runtime")
    told = subprocess.run(
        [sys.executable, "-c", TELEMETRY],
        input=tiny_model(),
        env={"PYTHONPATH": runtime, "HOME": "/nowhere"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert told.stdout == b"False convert_model\n"


def _with_operator(name: str) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(name, ["x"], ["y"])],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
