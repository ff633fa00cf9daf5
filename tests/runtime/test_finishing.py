"""Finishing a bundle on its device: compiled from the bundle, checked, measured, written back; or nothing is changed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.fake_cuda import H200, ORIN
from tests.runtime.power_modes import board as board
from tests.runtime.tensorrt.conftest import install as install
from tests.runtime.tensorrt.networks import product
from tests.runtime.tiny_bundle import SETTINGS, make_bundle, tiny_golden, tiny_manifest, tiny_model

import enginewright_runtime
from enginewright_runtime import compile_command, finishing
from enginewright_runtime.backends import backend
from enginewright_runtime.bundle import read_bundle, write_bundle
from enginewright_runtime.cli import main
from enginewright_runtime.errors import BundleError, EngineError, NoEngineFits
from enginewright_runtime.finishing import finish_bundle
from enginewright_runtime.host import machine
from enginewright_runtime.manifest import PendingEngine, parse_manifest
from enginewright_runtime.measure import EngineToMeasure, measure
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.tensorrt import gpu_time
from enginewright_runtime.unquantized import UNQUANTIZED_NAME
from enginewright_runtime.warm_up import WarmUpRule

SHORT = WarmUpRule(least_ns=1_000_000, least_count=2, window=2, steady_share=1.0, steady_times=1, cap_ns=50_000_000)
HERE = PendingEngine("onnxruntime", SETTINGS, {"machine": machine()})
ON_ORIN = PendingEngine(
    "tensorrt", {"sizes": {"batch": [1, 1, 4]}}, {"machine": machine(), "compute_capability": "8.7"}
)


ORIN_NX = replace(ORIN, sm_count=8, memory_bytes=15656 << 20)


def of_the_target(**requires: str) -> PendingEngine:
    """As a build for a target with these figures packs it."""
    return replace(ON_ORIN, requires={**ON_ORIN.requires, **requires})


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "measure", partial(measure, rounds=40, chunk=5, warm_up=SHORT))


def waiting(path: Path, *pending: PendingEngine, off_by: float = 0.0) -> Path:
    """A bundle without an engine."""
    files = {"model.onnx": tiny_model(), "golden.npz": tiny_golden(off_by=off_by).to_bytes()}
    write_bundle(path, replace(tiny_manifest(), pending=pending), files)
    return path


def test_a_pending_engine_survives_the_manifest(tmp_path: Path) -> None:
    manifest = read_bundle(waiting(tmp_path / "b.ewb", HERE, ON_ORIN)).manifest
    assert manifest.pending == (HERE, ON_ORIN)
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert manifest.extra == {}


def test_a_manifest_without_pending_engines_is_as_it_was() -> None:
    assert "pending" not in tiny_manifest().to_json()


def test_on_the_device_it_is_compiled_checked_measured_and_then_runs(tmp_path: Path) -> None:
    path = waiting(tmp_path / "b.ewb", HERE)
    with pytest.raises(NoEngineFits) as caught:
        enginewright_runtime.open(path)
    assert caught.value.hint == "on its device: enginewright-runtime compile BUNDLE"
    phases: list[str] = []
    finished = finish_bundle(read_bundle(path), path, sessions=2, on_phase=phases.append)
    assert finished.compiled
    assert finished.agrees
    assert phases == ["looking at the device", "compiling the engine", "running the golden inputs", "measuring"]
    assert {finding.name: finding.verdict.value for finding in finished.findings} == {
        "latency_p99_ms": "PASS",
        "size_mib": "PASS",
    }
    done = read_bundle(path)
    assert done.manifest.engines == (finished.entry,)
    assert done.manifest.pending == (HERE,)
    kept = Measurement.from_bytes(done.read(f"measurements/{finished.entry.fingerprint}.json"))
    assert len(kept.sessions) == 2
    with enginewright_runtime.open(path) as session:
        golden = tiny_golden()
        assert all(output.agrees for output in golden.compare(session.run(golden.inputs)))


def test_an_engine_that_is_there_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = waiting(tmp_path / "b.ewb", HERE)
    finish_bundle(read_bundle(path), path, sessions=1)
    monkeypatch.setattr(type(backend("onnxruntime")), "compile", None)
    assert not finish_bundle(read_bundle(path), path, sessions=1).compiled


def test_a_device_of_another_kind_is_refused_with_what_differs(tmp_path: Path) -> None:
    other = "x86_64" if machine() == "aarch64" else "aarch64"
    path = waiting(tmp_path / "b.ewb", replace(HERE, requires={"machine": other}))
    before = path.read_bytes()
    with pytest.raises(NoEngineFits, match=f"it is for machine {other}, and this device has {machine()}"):
        finish_bundle(read_bundle(path), path)
    assert path.read_bytes() == before


def test_for_another_architecture_nothing_is_to_be_installed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    other = "x86_64" if machine() == "aarch64" else "aarch64"
    path = waiting(tmp_path / "b.ewb", replace(ON_ORIN, requires={**ON_ORIN.requires, "machine": other}))
    with pytest.raises(NoEngineFits, match=f"it is for machine {other}, and this device has {machine()}") as caught:
        finish_bundle(read_bundle(path), path)
    assert caught.value.hint == "take the bundle to the device that it is for"


def test_an_engine_that_gives_something_else_is_not_measured_and_changes_nothing(tmp_path: Path) -> None:
    path = waiting(tmp_path / "b.ewb", HERE, off_by=0.5)
    before = path.read_bytes()
    finished = finish_bundle(read_bundle(path), path)
    assert not finished.agrees
    assert finished.measurement is None
    assert path.read_bytes() == before


def test_a_bundle_with_nothing_pending_is_said_to_be_complete(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b.ewb")
    with pytest.raises(BundleError, match="it is complete"):
        finish_bundle(read_bundle(path), path)


def test_a_failure_to_write_loses_nothing(tmp_path: Path) -> None:
    path = waiting(tmp_path / "b.ewb", HERE)
    with pytest.raises(BundleError, match="cannot be written"):
        finish_bundle(read_bundle(path), tmp_path / "nowhere" / "b.ewb", sessions=1)
    assert read_bundle(path).manifest.engines == ()


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = waiting(tmp_path / "b.ewb", HERE)
    assert main(["info", str(path)]) == 0
    assert f"pending   onnxruntime, on machine {machine()}: enginewright-runtime compile" in capsys.readouterr().out
    output = tmp_path / "done.ewb"
    assert main(["compile", str(path), "--sessions", "2", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert ": compiled, " in out
    assert "y agrees with the golden output" in out
    assert "verdict: PASS" in out
    assert out.splitlines()[-1] == f"wrote {output}"
    assert read_bundle(path).manifest.engines == ()


def test_the_command_fails_where_the_golden_outputs_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = waiting(tmp_path / "b.ewb", HERE, off_by=0.5)
    assert main(["compile", str(path)]) == 1
    assert "nothing was measured, and the bundle is as it was" in capsys.readouterr().out


# What the inspector says of the engines of a network with a pair, and without it.
LAYERS = {
    "x/quantize": [
        {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "ms": 0.05},
        {"Name": "x/quantize", "LayerType": "Scale", "Metadata": "[ONNX Layer: x/quantize]", "ms": 0.1},
        {
            "Name": "product + rectify",
            "LayerType": "gemm",
            "Inputs": [{"Format/Datatype": "Half"}],
            "Metadata": "[ONNX Layer: x/dequantize]\x1e[ONNX Layer: product]\x1e[ONNX Layer: rectify]",
            "ms": 0.25,
        },
    ],
    "product": [
        {
            "Name": "product + rectify",
            "LayerType": "gemm",
            "Inputs": [{"Format/Datatype": "Half"}],
            "Metadata": "[ONNX Layer: product]\x1e[ONNX Layer: rectify]",
            "ms": 0.1,
        }
    ],
}


def with_float16(path: Path, *, activation: str = "Relu") -> Path:
    """The bundle with a network that has a pair, and the same network without it."""
    bundle = read_bundle(path)
    files = {
        **{name: bundle.read(name) for name in bundle.contents},
        "model.onnx": product(quantized=True),
        UNQUANTIZED_NAME: product(quantized=False, activation=activation),
        "floors.json": json.dumps({"layers": [{"name": "product", "precision": "int8"}]}).encode(),
    }
    write_bundle(path, bundle.manifest, files)
    return path


def of_both(alone: Measurement) -> Measurement:
    """A measurement in which float16 took exactly as long."""

    def both(found: Any) -> Any:
        return {**found, "float16": found["engine"]}

    sessions = tuple(
        replace(
            session,
            samples_ns=both(session.samples_ns),
            cpu_ns=both(session.cpu_ns),
            warm_up=both(session.warm_up),
            peak_rss_bytes=both(session.peak_rss_bytes),
        )
        for session in alone.sessions
    )
    return replace(alone, engines=both(alone.engines), sessions=sessions)


class TestTensorRT:
    """With a fake TensorRT; the measuring processes have none, so measuring is left out."""

    @pytest.fixture(autouse=True)
    def without_measuring(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        done = waiting(tmp_path / "other.ewb", HERE)
        taken = finish_bundle(read_bundle(done), done, sessions=1).measurement
        monkeypatch.setattr(finishing, "measure", lambda *given, **named: taken)
        quick = partial(gpu_time.time_on_gpu, warm_up_ns=1, least_ns=1)
        monkeypatch.setattr(gpu_time, "time_on_gpu", quick)

    def test_an_orin_compiles_it_and_says_what_the_dla_does_not_take(self, tmp_path: Path, install: Any) -> None:
        install("10.3.0", on=ORIN, dla_cores=2, not_on_dla=("",))
        on_dla = replace(ON_ORIN, settings={**ON_ORIN.settings, "dla_core": 0})
        path = waiting(tmp_path / "b.ewb", on_dla)
        finished = finish_bundle(read_bundle(path), path)
        assert finished.agrees
        assert finished.warnings[0].startswith("not on the DLA, on the GPU: ")
        assert finished.entry.requires["tensorrt"] == "10.3.0"
        assert finished.entry.fingerprint.endswith("-orin-16sm")

    @pytest.mark.parametrize(("version", "name"), [("10.3.0", "calibrated.onnx"), ("11.4.0", "model.onnx")])
    def test_a_dla_takes_pairs_where_types_decide_and_scales_from_a_file_where_flags_do(
        self, tmp_path: Path, install: Any, version: str, name: str
    ) -> None:
        world = install(version, on=ORIN, dla_cores=2).world
        path = waiting(tmp_path / "b.ewb", replace(ON_ORIN, settings={**ON_ORIN.settings, "dla_core": 0}))
        bundle = read_bundle(path)
        files = {file: bundle.read(file) for file in bundle.contents}
        files |= {"model.onnx": product(quantized=True), "calibrated.onnx": product(quantized=False)}
        files |= {"calibration.cache": b"TRT-100300-EntropyCalibration2\nx: 3eaaaaab\n"}
        write_bundle(path, bundle.manifest, files)
        done = finish_bundle(read_bundle(path), path)
        assert files[name].hex().encode() in read_bundle(path).read(done.entry.path)
        calibrator = getattr(world.config, "int8_calibrator", None)
        assert (calibrator is not None) == (name == "calibrated.onnx")

    def test_engines_of_several_versions_live_in_one_bundle(self, tmp_path: Path, install: Any) -> None:
        path = waiting(tmp_path / "b.ewb", ON_ORIN)
        for version in ("10.3.0", "10.13.3"):
            install(version, on=ORIN)
            finish_bundle(read_bundle(path), path)
        engines = read_bundle(path).manifest.engines
        assert [entry.requires["tensorrt"] for entry in engines] == ["10.3.0", "10.13.3"]
        with enginewright_runtime.open(path) as session:
            assert session.entry.requires["tensorrt"] == "10.13.3"
        install("8.6.1", on=ORIN)
        with pytest.raises(NoEngineFits, match=r"needs TensorRT 10\.3\.0, and 8\.6\.1(.|\n)*needs TensorRT 10\.13\.3"):
            enginewright_runtime.open(path)

    @pytest.mark.parametrize(("version", "name"), [("10.3.0", "model.onnx"), ("11.4.0", "model.float16.onnx")])
    def test_a_version_that_goes_by_types_compiles_the_network_in_float16(
        self, tmp_path: Path, install: Any, version: str, name: str
    ) -> None:
        install(version, on=ORIN)
        path = waiting(tmp_path / "b.ewb", ON_ORIN)
        bundle = read_bundle(path)
        files = {file: bundle.read(file) for file in bundle.contents}
        half = files["model.onnx"].replace(b"product", b"another")  # tells the two apart in the engine
        write_bundle(path, bundle.manifest, {**files, "model.float16.onnx": half})
        done = finish_bundle(read_bundle(path), path)
        engine = read_bundle(path).read(done.entry.path)
        assert (b"another".hex().encode() in engine) == (name == "model.float16.onnx")

    def test_what_tensorrt_says_of_the_layers_is_in_the_bundle(
        self, tmp_path: Path, install: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        install("11.4.0", on=ORIN)
        path = waiting(tmp_path / "b.ewb", ON_ORIN)
        assert main(["compile", str(path)]) == 4  # one session decides no budget
        out = capsys.readouterr().out
        assert "1 layers, of them 1 int8 and 0 that only reformat" in out
        assert "GPU time 0.25 ms at the median" in out
        bundle = read_bundle(path)
        [entry] = bundle.manifest.engines
        [layer] = json.loads(bundle.read(f"engines/{entry.fingerprint}/layers.json"))["layers"]
        assert layer["nodes"] == ["conv1", "relu1"]
        timed = json.loads(bundle.read(f"measurements/{entry.fingerprint}.gpu.json"))
        assert len(timed["compute_ns"]) == 10
        assert timed["flags"]["transfers"] is False  # an Orin shares its memory

    def test_a_version_that_tells_of_its_layers_otherwise_costs_a_warning_and_not_the_engine(
        self, tmp_path: Path, install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        module = install("11.4.0", on=ORIN)
        monkeypatch.setattr(module.EngineInspector, "get_engine_information", lambda self, kind: '{"layers": []}')
        path = waiting(tmp_path / "b.ewb", ON_ORIN)
        assert main(["compile", str(path)]) == 4  # one session decides no budget
        out = capsys.readouterr().out
        assert "warning: the layers are not known: TensorRT does not describe the engine's layers: 'Layers'" in out
        assert "GPU time 0.25 ms at the median" in out
        assert "layers, of them" not in out
        assert len(read_bundle(path).manifest.engines) == 1

    def test_int8_is_measured_beside_float16_and_what_costs_it_time_is_named(
        self, tmp_path: Path, install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        install("10.3.0", on=ORIN, layers=LAYERS)
        alone = finishing.measure({}, {})  # what the fixture took
        given: dict[str, bytes] = {}

        def measured(engines: dict[str, EngineToMeasure], *others: Any, **named: Any) -> Measurement:
            given.update({label: engine.path.read_bytes() for label, engine in engines.items()})
            return of_both(alone)

        monkeypatch.setattr(finishing, "measure", measured)
        path = with_float16(waiting(tmp_path / "b.ewb", ON_ORIN))
        assert main(["compile", str(path), "--json"]) == 4  # one session decides no budget
        answer = json.loads(capsys.readouterr().out)
        assert answer["times_faster_than_float16"] == [1.0]
        assert answer["comparison"] == {
            "int8_ns": 400_000,
            "float16_ns": 100_000,
            "reformats": ["Reformatting CopyNode"],
            "reformat_ns": 50_000,
            "float16_reformat_ns": 0,
            "alone": ["x/quantize"],
            "fallbacks": ["product"],
            "parts": [{"nodes": ["product", "rectify"], "int8_ns": 250_000, "float16_ns": 100_000}],
        }
        assert {label: b"DequantizeLinear".hex().encode() in engine for label, engine in given.items()} == {
            "engine": True,
            "float16": False,
        }
        bundle = read_bundle(path)
        [entry] = bundle.manifest.engines
        assert f"engines/{entry.fingerprint}/float16-layers.json" in bundle.contents
        assert main(["compile", str(path)]) == 4
        assert "\n".join(capsys.readouterr().out.splitlines()[-6:-1]) == (
            "  1.00 times as fast as the same network in float16 (1.00 to 1.00 over 1 sessions)\n"
            "    layers that only reformat: 1, 50.0 us; in float16 0.0 us\n"
            "    pairs that broke a fusion: x/quantize\n"
            "    not in int8, though the network asks for it: product\n"
            "    product, rectify: 250.0 us in int8, 100.0 us in float16"
        )

    @pytest.mark.parametrize(
        ("layers", "said"),
        [
            (LAYERS, "; the layers below are to blame: keep them in float (keep_float)"),
            ({}, ", though none of its layers is by itself"),
        ],
    )
    def test_an_int8_that_is_slower_is_warned_of_and_blames_layers_where_there_are_any(
        self,
        tmp_path: Path,
        install: Any,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        layers: dict[str, Any],
        said: str,
    ) -> None:
        install("10.3.0", on=ORIN, layers=layers)
        alone = finishing.measure({}, {})  # what the fixture took
        monkeypatch.setattr(finishing, "measure", lambda *others, **named: of_both(alone))
        monkeypatch.setattr(compile_command, "times_faster", lambda taken: (0.9,))
        main(["compile", str(with_float16(waiting(tmp_path / "b.ewb", ON_ORIN)))])
        assert f"  warning: int8 is slower than float16{said}\n" in capsys.readouterr().out

    def test_a_float16_network_that_cannot_be_built_costs_the_comparison_alone(
        self, tmp_path: Path, install: Any
    ) -> None:
        install("10.3.0", on=ORIN, rejects=("Elu",))
        path = with_float16(waiting(tmp_path / "b.ewb", ON_ORIN), activation="Elu")
        finished = finish_bundle(read_bundle(path), path)
        assert finished.agrees
        assert finished.comparison is None
        [warning] = finished.warnings
        assert warning.startswith(
            "int8 is compared with nothing, for the same network in float16 fails: TensorRT 10.3.0"
        )
        assert "rectify (Elu)" in warning

    def test_an_interrupted_build_leaves_the_bundle_and_the_timings_as_they_were(
        self, tmp_path: Path, install: Any
    ) -> None:
        install("10.13.3", on=ORIN)
        path = waiting(tmp_path / "b.ewb", ON_ORIN)
        before = path.read_bytes()

        def interrupt(phase: str) -> None:
            if "of" in phase.split():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finish_bundle(read_bundle(path), path, on_phase=interrupt)
        assert path.read_bytes() == before
        assert not (tmp_path / "cache").exists()

    def test_another_gpu_is_refused(self, tmp_path: Path, install: Any) -> None:
        install("10.3.0", on=H200)
        path = waiting(tmp_path / "b.ewb", ON_ORIN)
        with pytest.raises(NoEngineFits, match=r"it is for compute capability 8\.7, and this device has 9\.0"):
            finish_bundle(read_bundle(path), path)

    def test_another_model_of_the_same_name_and_capability_is_refused(self, tmp_path: Path, install: Any) -> None:
        install("10.3.0", on=ORIN_NX)
        path = waiting(tmp_path / "b.ewb", of_the_target(sm_count="16", memory_gb="64"))
        before = path.read_bytes()
        with pytest.raises(NoEngineFits) as caught:
            finish_bundle(read_bundle(path), path)
        assert (
            "it is for a GPU with 16 SMs and 64 GB of memory, and the Orin here has 8 and 15.3 GiB: it is another model"
        ) in caught.value.message
        assert caught.value.hint == "build for the target that this device is: `enginewright targets` lists them"
        assert path.read_bytes() == before

    def test_another_power_mode_is_refused_before_anything_is_built(
        self, tmp_path: Path, install: Any, board: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        install("10.3.0", on=ORIN, fails=("build",))
        board("MODE_30W", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n")
        path = waiting(tmp_path / "b.ewb", of_the_target(power_mode="MAXN"))
        assert main(["compile", str(path)]) == 4
        err = capsys.readouterr().err
        assert "it is to be measured in the power mode MAXN, and MODE_30W is set" in err
        assert "fix: `sudo nvpmodel -m 0` sets MAXN, after a restart if it asks for one; `sudo jetson_clocks`" in err

    def test_where_the_power_mode_is_not_told_there_is_a_warning(
        self, tmp_path: Path, install: Any, board: Any
    ) -> None:
        install("10.3.0", on=ORIN)
        board(None)
        path = waiting(tmp_path / "b.ewb", of_the_target(power_mode="MAXN"))
        assert finish_bundle(read_bundle(path), path).warnings == (
            "the power mode is unknown: nvpmodel does not tell it, and the target is measured in MAXN",
        )

    def test_in_the_target_s_own_mode_there_is_nothing_to_say(self, tmp_path: Path, install: Any, board: Any) -> None:
        install("10.3.0", on=ORIN)
        board("MAXN")
        path = waiting(tmp_path / "b.ewb", of_the_target(sm_count="16", memory_gb="64", power_mode="MAXN"))
        assert finish_bundle(read_bundle(path), path).warnings == ()

    def test_a_build_that_fails_leaves_the_bundle_as_it_was(self, tmp_path: Path, install: Any) -> None:
        install("10.3.0", on=ORIN, fails=("build",), says=("OutOfMemory: requested 8 GiB",))
        path = waiting(tmp_path / "b.ewb", ON_ORIN)
        before = path.read_bytes()
        with pytest.raises(EngineError, match="OutOfMemory: requested 8 GiB"):
            finish_bundle(read_bundle(path), path)
        assert path.read_bytes() == before


def test_without_tensorrt_the_reason_and_the_way_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    path = waiting(tmp_path / "b.ewb", ON_ORIN)
    with pytest.raises(NoEngineFits) as caught:
        finish_bundle(read_bundle(path), path)
    assert "tensorrt: TensorRT" in caught.value.message
    assert "JetPack" in caught.value.hint
