"""Plans of engines that run elsewhere: the twin is evaluated, nothing is measured, and the settings are the device's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.tiny_project import TINY

from enginewright.compression import CompressStep, PruneBlocks, Quantize, Sparsify
from enginewright.engine_settings import TWIN_TOLERANCE
from enginewright.errors import UsageError
from enginewright.plan import HostFacts, OutputOf, Plan, make_plan
from enginewright.recipe import TensorSpec, load_recipe
from enginewright.sources import Source, Sources
from enginewright.target import Target, catalogue, load_target

ORIN = load_target("orin", catalogue(None))
ADA = load_target("rtx-ada", catalogue(None))
SOURCES = Sources({"code/data.py": Source("c" * 64, "data.py")}, {"weights": Source("a" * 64, "tiny.safetensors")}, {})
ELSEWHERE = HostFacts(
    "tensorrt",
    {},
    "float32",
    "f" * 64,
    pending="there is no GPU",
    twin_requires={"onnxruntime": "1.31.1"},
    checker="1.7",
)
ON_THE_DEVICE = HostFacts("tensorrt", {"tensorrt": "10.3.0", "compute_capability": "8.7"}, "float32", "f" * 64)


def plan_of(target: Target = ORIN, host: HostFacts = ELSEWHERE, *compress: CompressStep, **changed: object) -> Plan:
    recipe = load_recipe(TINY / "tiny.yaml", target=target, settings={}, environment={})
    if compress:
        recipe = replace(recipe, compress=compress)
    return make_plan(replace(recipe, **changed), target, sources=SOURCES, host=host)  # type: ignore[arg-type]


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps]


def test_the_twin_is_compiled_and_evaluated_and_nothing_is_measured() -> None:
    plan = plan_of()
    assert names(plan)[-5:] == ["evaluate", "unquantized/half", "half", "check", "pack"]
    assert "measure" not in names(plan)
    twin = plan.step("twin/compile").parameters
    assert twin["backend"] == "onnxruntime"
    assert twin["settings"]["config"] == {"session.disable_quant_qdq": "1"}  # type: ignore[index, call-overload]
    assert plan.step("evaluate").inputs["engine"] == OutputOf("twin/compile", "engine")
    assert plan.step("evaluate").parameters["golden_tolerance"] == TWIN_TOLERANCE
    assert plan.step("pack").stage == "pack_pending"


def test_the_device_gets_its_own_settings_and_must_be_what_the_target_says() -> None:
    packed = plan_of().step("pack").parameters
    assert packed["backend"] == "tensorrt"
    assert packed["settings"] == {"workspace_mib": 4096, "sizes": {"batch": [1, 1, 32]}}
    assert packed["requires"] == {
        "machine": "aarch64", "compute_capability": "8.7", "sm_count": "16", "memory_gb": "64", "power_mode": "MAXN",
    }  # fmt: skip
    assert packed["reason"] == "there is no GPU"


def test_a_sparse_network_is_built_with_sparse_kernels() -> None:
    packed = plan_of(ORIN, ELSEWHERE, Sparsify(), Quantize()).step("pack").parameters
    assert packed["settings"]["sparse"] is True  # type: ignore[index, call-overload]


def test_precision_is_assigned_by_the_targets_rates_and_not_by_a_clock_here() -> None:
    assigned = plan_of().step("assign_precision").parameters
    assert assigned["rates"] == {"int8_tops": 85.0, "float16_tflops": 42.5, "bandwidth_gb_s": 204.8}
    assert "host" not in assigned
    assert assigned["backend"] == "onnxruntime"


def test_without_rates_all_layers_that_can_are_int8_and_a_bound_is_refused() -> None:
    assert "assign_precision" not in names(plan_of(ADA))
    with pytest.raises(UsageError, match="of 'rtx-ada' the rates that tell which are worth it are not known"):
        plan_of(ADA, ELSEWHERE, Quantize(accuracy_drop=0.01))


def test_an_engine_that_is_compiled_ahead_of_time_is_in_the_bundle() -> None:
    host = replace(ELSEWHERE, requires={"tensorrt_rtx": "1.7", "machine": "x86_64", "compute_capability": "8.9"})
    plan = plan_of(ADA, host)
    compiled = plan.step("compile").parameters
    assert compiled["backend"] == "tensorrt_rtx"
    assert compiled["settings"] == {"compute_capability": "8.9", "sizes": {"batch": [1, 1, 32]}}
    assert plan.step("pack").inputs["engine"] == OutputOf("compile", "engine")
    assert plan.step("compile").inputs["network"] == OutputOf("half", "network")


def test_a_tensorrt_that_goes_by_types_gets_the_network_in_float16_and_another_does_not() -> None:
    assert plan_of().step("check").inputs["network"].step == "quantize"
    assert plan_of(replace(ORIN, tensorrt="11.4")).step("check").inputs["network"] == OutputOf("half", "network")
    here = replace(ON_THE_DEVICE, requires={**ON_THE_DEVICE.requires, "tensorrt": "11.4.0"})
    plan = plan_of(ORIN, here)
    for compiled, half in (("compile", "half"), ("reference/compile", "reference/half")):
        assert plan.step(compiled).inputs["network"] == OutputOf(half, "network")
    assert "half" not in names(plan_of(ORIN, ON_THE_DEVICE))


def test_the_network_without_its_pairs_goes_along_in_float16_to_measure_int8_beside_it() -> None:
    plan = plan_of()
    assert plan.step("unquantized/half").inputs["network"] == plan.step("quantize").inputs["network"]
    assert plan.step("pack").inputs["unquantized"] == OutputOf("unquantized/half", "network")
    assert "unquantized" not in plan_of(ORIN, ELSEWHERE, Sparsify()).step("pack").inputs  # nothing is quantized


def test_a_target_that_wants_float32_gets_no_network_in_float16() -> None:
    exact = replace(ORIN, precision="float32", cuda_graph=True)
    plan = plan_of(exact)
    assert "half" not in names(plan)
    settings = plan.step("pack").parameters["settings"]
    assert settings["precision"] == "float32"  # type: ignore[index, call-overload]
    assert settings["cuda_graph"] is True  # type: ignore[index, call-overload]
    newest = replace(exact, tensorrt="11.4")
    assert plan_of(newest).step("check").inputs["network"].step == "quantize"
    here = replace(ON_THE_DEVICE, requires={**ON_THE_DEVICE.requires, "tensorrt": "11.4.0"})
    assert plan_of(newest, here).step("compile").inputs["network"].step == "quantize"


def test_for_a_dla_the_shapes_are_fixed_and_the_network_goes_along_without_pairs() -> None:
    plan = plan_of(replace(ORIN, dla_core=0))
    packed = plan.step("pack")
    assert packed.parameters["settings"]["sizes"] == {"batch": [1, 1, 1]}  # type: ignore[index, call-overload]
    assert packed.inputs["calibrated"] == plan.step("quantize").inputs["network"]
    assert plan.step("evaluate").parameters["largest_batch"] == 1  # its golden inputs are for such an engine
    assert "calibrated" not in plan_of().step("pack").inputs


def test_without_tensorrt_rtx_the_structure_is_not_checked_and_the_bundle_is_made() -> None:
    plan = plan_of(ORIN, replace(ELSEWHERE, checker=""))
    assert "check" not in names(plan)
    assert "structure" not in plan.step("pack").inputs


def test_on_the_device_itself_its_own_engine_is_evaluated_and_measured() -> None:
    plan = plan_of(ORIN, ON_THE_DEVICE)
    assert names(plan)[-4:] == ["compile", "evaluate", "measure", "pack"]
    compiled = plan.step("compile").parameters
    assert compiled["backend"] == "tensorrt"
    assert compiled["settings"] == {"workspace_mib": 4096, "sizes": {"batch": [1, 1, 32]}}
    assert plan.step("pack").stage == "pack"
    assert "golden_tolerance" not in plan.step("evaluate").parameters


def test_blocks_cannot_be_measured_for_a_device_that_is_elsewhere() -> None:
    with pytest.raises(UsageError, match="prune_blocks measures blocks on the target, and 'orin' is not here"):
        plan_of(ORIN, ELSEWHERE, PruneBlocks(blocks=1))


def test_a_free_dimension_that_is_no_batch_must_be_written_for_tensorrt() -> None:
    recipe = load_recipe(TINY / "tiny.yaml", target=ORIN, settings={}, environment={})
    free = replace(recipe.model, inputs={"image": TensorSpec(shape=("batch", 3, "height", 16), dtype="float32")})
    with pytest.raises(UsageError, match="the dimension 'height' of the input 'image' is free"):
        plan_of(ORIN, ELSEWHERE, model=free)
