"""Every name of TensorRT that the runtime touches, against those that the real bindings of each version have."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from tests.fake_tensorrt import NAMES, VERSIONS, fake_tensorrt

SOURCES = Path(__file__).parents[2] / "runtime" / "enginewright_runtime" / "tensorrt"
# What the runtime uses wherever it runs; the rest it asks for with hasattr, or says that the version lacks it.
EVERYWHERE = {
    "Builder": {"build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile"},
    "IBuilderConfig": {
        "DLA_core", "add_optimization_profile", "builder_optimization_level", "can_run_on_DLA", "create_timing_cache",
        "default_device_type", "get_timing_cache", "profiling_verbosity", "set_flag", "set_memory_pool_limit", "set_timing_cache",
    },
    "BuilderFlag": {"GPU_FALLBACK", "SPARSE_WEIGHTS"},
    "MemoryPoolType": {"WORKSPACE"},
    "ProfilingVerbosity": {"DETAILED"},
    "DeviceType": {"DLA"},
    "OnnxParser": {"parse", "num_errors", "get_error"},
    "ParserError": {"node", "desc"},
    "IOptimizationProfile": {"set_shape"},
    "ITimingCache": {"serialize"},
    "Runtime": {"DLA_core", "deserialize_cuda_engine"},
    "ICudaEngine": {
        "create_engine_inspector", "create_execution_context", "get_tensor_dtype", "get_tensor_mode", "get_tensor_name",
        "get_tensor_profile_shape", "get_tensor_shape", "num_io_tensors",
    },
    "IExecutionContext": {"execute_async_v3", "get_tensor_shape", "profiler", "set_input_shape", "set_tensor_address"},
    "IProfiler": {"report_layer_time"},
    "EngineInspector": {"execution_context", "get_engine_information"},
    "LayerInformationFormat": {"JSON"},
    "TensorIOMode": {"INPUT"},
    "INetworkDefinition": {"get_layer", "num_layers"},
    "DataType": {"FLOAT", "HALF", "INT8", "INT32", "BOOL"},
}  # fmt: skip


def recorded(version: str) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = json.loads((NAMES / f"{version}.json").read_text())["classes"]
    return classes


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_the_names_that_are_used_everywhere(version: str) -> None:
    classes = recorded(version)
    assert {name: sorted(used - set(classes.get(name, ()))) for name, used in EVERYWHERE.items()} == {
        name: [] for name in EVERYWHERE
    }


def test_tensorrt_rtx_has_them_too() -> None:
    rtx = pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    lacking = {
        f"{name}.{used}"
        for name, names in EVERYWHERE.items()
        for used in names
        if not hasattr(getattr(rtx, name), used)
    }
    assert lacking == set()


def test_every_member_that_the_source_names_is_one_of_a_real_version() -> None:
    """`library.member("MemoryPoolType", "WORKSPACE")`: a misspelt one would be an error that blames the version."""
    asked = set()
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "member" and len(node.args) == 2:
                words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                if len(words) == 2:
                    asked.add((str(words[0]), str(words[1])))
    assert len(asked) > 8
    known = {
        (name, member) for version in VERSIONS for name, members in recorded(version).items() for member in members
    }
    assert asked - known == set()


def test_enumerations_are_renumbered_and_names_come_and_go() -> None:
    """Why nothing goes by numbers, and that the fake has no name that the real one lacks."""
    old, new = fake_tensorrt("8.6.1"), fake_tensorrt("11.4.0")
    assert int(old.BuilderFlag.SPARSE_WEIGHTS) != int(new.BuilderFlag.SPARSE_WEIGHTS)
    assert hasattr(old.BuilderFlag, "INT8")
    assert not hasattr(new.BuilderFlag, "INT8")
    assert not hasattr(old, "IProgressMonitor")
    with pytest.raises(AttributeError):
        old.Builder(None).create_builder_config().progress_monitor = object()


def test_the_recorded_names_are_those_of_the_versions_that_devices_have() -> None:
    assert {version.partition(".")[0] for version in VERSIONS} == {"8", "10", "11"}
