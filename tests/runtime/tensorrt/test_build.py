"""Building an engine: the same on every version whose real names were recorded, and clear when it fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from tests.fake_cuda import ORIN
from tests.runtime.tensorrt.networks import product
from tests.runtime.tiny_bundle import tiny_model

from enginewright_runtime.backends import backend
from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt import timing_cache
from enginewright_runtime.tensorrt.build import Built
from enginewright_runtime.tensorrt.header import read_header

SIZES = {"batch": [1, 1, 8]}
MIB = 1 << 20


def build(model: bytes | None = None, **settings: Any) -> Built:
    return backend("tensorrt").build(model or tiny_model(), {"sizes": SIZES, **settings})  # type: ignore[attr-defined]


def named_nodes() -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"], name="first"),
            helper.make_node("Wobble", ["a"], ["b"], name="second"),
            helper.make_node("Wobble", ["b"], ["y"], name="third"),
        ],
        "named",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def test_every_version_builds_and_its_header_tells_it(install: Any, version: str) -> None:
    install(version)
    header = read_header(build().engine)
    assert header.made_by(version)
    assert not header.version or not header.made_by("99.0.0")


def test_precisions_are_flags_up_to_10_and_the_networks_types_from_11(install: Any, version: str) -> None:
    world = install(version).world
    build(product(quantized=True))
    flags = set(world.config._flags)
    creation = world.module.NetworkDefinitionCreationFlag
    if version.startswith("11"):
        assert flags == set()
        assert world.network_flags == 1 << int(creation.STRONGLY_TYPED)
    else:
        assert flags == {"INT8", "FP16"}
        assert world.network_flags == 1 << int(creation.EXPLICIT_BATCH)


def test_float32_leaves_out_the_flag_of_float16(install: Any) -> None:
    world = install("10.3.0").world
    build(product(quantized=True), precision="float32")
    assert world.config._flags == ["INT8"]


def test_a_network_without_pairs_is_not_given_int8_for_tensorrt_would_ask_for_a_calibrator(install: Any) -> None:
    world = install("8.6.1").world
    build(product(quantized=False))
    assert world.config._flags == ["FP16"]


def test_limits_and_the_level_reach_the_builder_by_name(install: Any, version: str) -> None:
    world = install(version).world
    wanted = {"workspace_mib": 512, "optimization_level": 4, "sparse": True}
    build(**wanted)
    assert world.config._pools == {"WORKSPACE": 512 * MIB}
    assert world.config.builder_optimization_level == 4
    assert "SPARSE_WEIGHTS" in world.config._flags
    assert world.config.profiling_verbosity.name == "DETAILED"


def test_a_limit_that_the_version_lacks_is_an_error_and_not_left_out(install: Any) -> None:
    install("8.6.1")
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 has no MemoryPoolType\.TACTIC_SHARED_MEMORY"):
        build(tactic_shared_memory_kib=48)
    world = install("10.3.0").world
    build(tactic_shared_memory_kib=48)
    assert world.config._pools == {"TACTIC_SHARED_MEMORY": 48 << 10}


def test_the_profile_has_the_sizes_of_the_free_dimensions(install: Any, version: str) -> None:
    world = install(version).world
    build()
    assert world.config._profiles[0]._shapes == {"x": [(1, 4), (1, 4), (8, 4)]}


def test_a_free_dimension_without_sizes_is_refused(install: Any) -> None:
    install("10.3.0")
    with pytest.raises(EngineError, match="'batch' of the input 'x' is free"):
        backend("tensorrt").compile(tiny_model(), {})


def test_a_network_without_free_dimensions_needs_no_profile(install: Any) -> None:
    world = install("10.3.0").world
    build(named_nodes())
    assert world.config._profiles == []


def test_every_fault_of_the_parser_is_told_with_its_node(install: Any, version: str) -> None:
    install(version, rejects=("Wobble",))
    with pytest.raises(EngineError) as caught:
        build(named_nodes())
    lines = caught.value.message.splitlines()
    assert lines[0] == f"TensorRT {version} could not parse the model:"
    assert lines[1:] == [
        "  second (Wobble): no importer for it",
        "  third (Wobble): no importer for it",
    ]
    assert caught.value.hint == (
        "this version lacks that operator, and plugins are not loaded: write the network with other operators"
    )


def test_a_build_that_fails_says_what_tensorrt_said_and_what_to_do(install: Any, version: str) -> None:
    says = "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 16581132288 bytes.)"
    install(version, fails=("build",), says=(says,))
    with pytest.raises(EngineError) as caught:
        build(workspace_mib=4096)
    assert str(caught.value) == (
        f"TensorRT {version} could not build the engine; it says:\n"
        f"  {says}\n"
        "  fix: lower workspace_mib of the target (now 4096) and build the bundle again, or end what else uses the GPU's memory"
    )


@pytest.mark.parametrize("raises", [MemoryError("std::bad_alloc"), RuntimeError("std::bad_alloc")])
def test_an_exception_that_the_bindings_pass_on_is_a_build_that_fails(install: Any, raises: Exception) -> None:
    install("10.3.0", raises=raises)
    with pytest.raises(EngineError) as caught:
        build()
    assert caught.value.message == "TensorRT 10.3.0 could not build the engine; it says:\n  std::bad_alloc"
    assert caught.value.hint.startswith("lower workspace_mib of the target (not set now, so the builder may take")


def test_a_builder_that_an_old_driver_does_not_give_names_the_drivers_cuda(install: Any) -> None:
    said = "CUDA initialization failure with error: 35. Please check your CUDA installation"
    install("8.6.1", fails=("builder",), warns=(said,))
    with pytest.raises(EngineError) as caught:
        build()
    assert str(caught.value) == (
        f"TensorRT 8.6.1 could not create its builder; it says:\n  {said}\n"
        "  fix: the driver is older than this TensorRT wants (it knows CUDA 13.0 at the most): update it, or install a "
        "TensorRT for its CUDA"
    )


def test_a_builder_that_cannot_be_made_says_why(install: Any) -> None:
    install("8.6.1", fails=("builder",), says=("CUDA initialization failure with error: 100",))
    with pytest.raises(EngineError, match=r"could not create its builder(.|\n)*error: 100"):
        build()


def test_timings_are_kept_by_device_and_version_and_used_again(install: Any, tmp_path: Path) -> None:
    world = install("10.3.0", on=ORIN).world
    build()
    [kept] = (tmp_path / "cache").iterdir()
    assert kept.name.startswith("tensorrt-10.3.0-sm87-")
    assert kept.name.endswith("-orin-16sm.timing")
    again = build()
    assert world.config._cache.data == kept.read_bytes()
    assert again.warnings == ()


def test_timings_of_another_device_are_taken_anew_and_said(install: Any, tmp_path: Path) -> None:
    world = install("10.3.0").world
    build()
    [kept] = (tmp_path / "cache").iterdir()
    kept.write_bytes(b"timings of another device")
    assert "another device's or version's" in build().warnings[0]
    assert world.config._cache.data == b""
    assert kept.read_bytes() != b"timings of another device"


def test_timings_that_8_6_only_complains_of_are_said_and_are_no_reason_of_what_fails_later(
    install: Any, tmp_path: Path
) -> None:
    """8.6 takes a cache of another version, logs that it is not used, and goes on."""
    says = (
        "1: [stdArchiveReader.cpp::StdArchiveReaderInitCommon::36] Error Code 1: Serialization (Serialization assertion "
        "magicTagRead == kMAGIC_TAG failed.Magic tag does not match)",
        "4: The timing cache will not be used!",
    )
    install("8.6.1")
    build()
    [kept] = (tmp_path / "cache").iterdir()
    kept.write_bytes(b"timings of another device")
    install("8.6.1", on_unfit_timings=says)
    assert build().warnings == (f"the timings in {kept} are another device's or version's: they were measured anew",)
    kept.write_bytes(b"timings of another device")
    install("8.6.1", on_unfit_timings=says, fails=("build",))
    with pytest.raises(EngineError, match="could not build the engine, and says nothing") as caught:
        build()
    assert caught.value.hint == ""
    assert kept.read_bytes() == b"timings of another device"


def test_a_cache_that_cannot_be_used_costs_a_warning_and_not_the_engine(install: Any, tmp_path: Path) -> None:
    world = install("10.3.0").world
    (tmp_path / "cache").write_text("a file where the folder would be")
    found = build()
    assert found.engine
    assert [warning.partition(" in ")[0] for warning in found.warnings] == [
        "the timings",
        "the timings cannot be kept",
    ]
    assert world.config._cache.data == b""


def test_a_disk_that_is_full_costs_the_timings_and_not_the_engine(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.3.0")
    build()
    [kept] = (tmp_path / "cache").iterdir()
    before = kept.read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(timing_cache, "write_file", full)
    found = build()
    assert found.engine
    assert found.warnings == (f"the timings cannot be kept in {kept}: No space left on device",)
    assert kept.read_bytes() == before


def test_a_failed_build_leaves_the_timings_as_they_were(install: Any, tmp_path: Path) -> None:
    install("10.3.0")
    build()
    [kept] = (tmp_path / "cache").iterdir()
    before = kept.read_bytes()
    install("10.3.0", fails=("build",))
    with pytest.raises(EngineError, match="says nothing"):
        build()
    assert kept.read_bytes() == before


def test_layers_that_do_not_fit_the_dla_are_named(install: Any, version: str) -> None:
    world = install(version, on=ORIN, dla_cores=2, not_on_dla=("second",)).world
    found = build(named_nodes(), dla_core=1)
    assert found.on_gpu == ("second",)
    assert world.config.default_device_type.name == "DLA"
    assert world.config.DLA_core == 1
    assert "GPU_FALLBACK" in world.config._flags


CACHE = b"TRT-100300-EntropyCalibration2\nx: 3eaaaaab\n"


def test_up_to_10_a_dla_gets_its_scales_from_the_cache_and_the_builder_its_own_version(
    install: Any, version: str
) -> None:
    world = install(version, on=ORIN, dla_cores=2).world
    chosen: Any = backend("tensorrt")
    settings = {"sizes": {"batch": [1, 1, 1]}, "dla_core": 0}
    if version.startswith("11"):
        with pytest.raises(EngineError, match=r"TensorRT 11\.4\.0 takes no calibration cache"):
            chosen.build(product(quantized=False), settings, calibration=CACHE)
        return
    chosen.build(product(quantized=False), settings, calibration=CACHE)
    assert {"INT8", "FP16", "GPU_FALLBACK"} <= set(world.config._flags)
    given = world.config.int8_calibrator.read_calibration_cache().decode()
    own = {"8.6.1": "8601", "10.3.0": "100300", "10.13.3": "101303"}[version]
    assert given == f"TRT-{own}-EntropyCalibration2\nx: 3eaaaaab\n"
    assert world.config.int8_calibrator.get_batch(["x"]) is None
    assert world.config._calibration_profile is world.config._profiles[0]


def test_what_is_no_calibration_cache_is_refused(install: Any) -> None:
    install("10.3.0", on=ORIN, dla_cores=2)
    chosen: Any = backend("tensorrt")
    with pytest.raises(EngineError, match="the calibration cache does not begin as TensorRT's do"):
        chosen.build(product(quantized=False), {"sizes": SIZES, "dla_core": 0}, calibration=b"x: 3eaaaaab\n")


def test_a_parser_that_can_is_told_that_the_network_is_for_a_dla(install: Any) -> None:
    world = install("11.4.0", on=ORIN, dla_cores=2).world
    build(product(quantized=True), dla_core=0)
    assert world.parser_flags == ["ADJUST_FOR_DLA"]
    build(product(quantized=True))
    assert world.parser_flags == ["ADJUST_FOR_DLA"]


def test_a_dla_that_is_not_there_is_refused(install: Any) -> None:
    install("10.13.3", on=ORIN, dla_cores=0)
    with pytest.raises(EngineError, match=r"DLA core 0 is asked for, and TensorRT 10\.13\.3 finds 0"):
        build(dla_core=0)


def test_progress_is_told_where_the_version_has_a_monitor(install: Any, version: str) -> None:
    install(version)
    heard: list[tuple[str, int, int]] = []
    chosen = backend("tensorrt")
    chosen.build(tiny_model(), {"sizes": SIZES}, on_phase=lambda *told: heard.append(told))  # type: ignore[attr-defined]
    if version.startswith("8"):
        assert heard == []
    else:
        assert heard[:3] == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2)]


def test_an_interrupted_build_ends_and_keeps_no_engine(install: Any) -> None:
    install("11.4.0")

    def interrupt(*told: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend("tensorrt").build(tiny_model(), {"sizes": SIZES}, on_phase=interrupt)  # type: ignore[attr-defined]


def test_unknown_settings_are_refused(install: Any) -> None:
    install("10.3.0")
    with pytest.raises(EngineError, match="unknown key 'worksapce_mib'"):
        build(worksapce_mib=5)
    with pytest.raises(EngineError, match="smallest, the usual and the largest"):
        build(sizes={"batch": [4, 1, 8]})
    with pytest.raises(EngineError, match="must be one of float16, float32"):
        build(precision="int4")
