"""The plan is pure, and an order that cannot work fails before anything runs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from tests.tiny_project import TINY

from enginewright.compression import (
    Calibration,
    CompressStep,
    Distill,
    Factorize,
    Prune,
    PruneBlocks,
    Quantize,
    Recalibrate,
    Recover,
    Sparsify,
    Student,
)
from enginewright.errors import UsageError
from enginewright.graph.dialects import DIALECTS
from enginewright.plan import HostFacts, OutputOf, Plan, Step, check_order, make_plan
from enginewright.recipe import load_recipe
from enginewright.sources import Source, Sources
from enginewright.stages import STAGES
from enginewright.target import Target

CPU = Target(target=1, name="cpu", backend="onnxruntime", build="here", threads=2)
SOURCES = Sources({"code/data.py": Source("c" * 64, "data.py")}, {"weights": Source("a" * 64, "tiny.safetensors")}, {})


def plan_of(settings: dict[str, float], *, dialect: str = "onnxruntime-x86-vnni", fingerprint: str = "f" * 64) -> Plan:
    recipe = load_recipe(TINY / "tiny.yaml", target=CPU, settings=settings, environment={})
    host = HostFacts(dialect, {"onnxruntime": "1.31.1"}, "float32", fingerprint)
    return make_plan(recipe, CPU, sources=SOURCES, host=host)


def changed(one: Plan, other: Plan) -> list[str]:
    """The steps whose own parameters differ."""
    return [step.name for step in one.steps if step.parameters != other.step(step.name).parameters]


def test_a_parameter_of_pruning_reaches_the_pruning_step_and_the_packed_recipe_only() -> None:
    assert changed(plan_of({}), plan_of({"macs": 0.3})) == ["prune", "pack"]


def test_the_sequence_number_reaches_the_packed_bundle_and_nothing_else() -> None:
    recipe = load_recipe(TINY / "tiny.yaml", target=CPU, settings={}, environment={})
    host = HostFacts("onnxruntime-x86-vnni", {"onnxruntime": "1.31.1"}, "float32", "f" * 64)
    later = make_plan(replace(recipe, sequence=recipe.sequence + 1), CPU, sources=SOURCES, host=host)
    assert changed(plan_of({}), later) == ["pack"]


def test_another_dialect_changes_how_the_network_is_quantized() -> None:
    assert changed(plan_of({}), plan_of({}, dialect="onnxruntime-arm")) == ["assign_precision", "quantize"]


def test_another_host_makes_what_was_measured_stale_and_nothing_else() -> None:
    assert changed(plan_of({}), plan_of({}, fingerprint="0" * 64)) == ["assign_precision", "measure"]


def test_only_the_engine_of_the_quantized_network_gets_its_dialects_settings() -> None:
    plan = plan_of({})
    wanted = list(DIALECTS["onnxruntime-x86-vnni"].disabled_optimizers)
    assert wanted
    assert plan.step("compile").parameters["settings"] == {"threads": 2, "disable": wanted, "config": {}}
    assert plan.step("reference/compile").parameters["settings"] == {"threads": 2}


def test_only_steps_that_run_the_recipes_code_depend_on_it() -> None:
    without = {step.name for step in plan_of({}).steps if "code/data.py" not in step.sources}
    compiled = {"reference/compile", "compile", "reference/simplify", "simplify"}
    assert without == {*compiled, "measure", "pack"}


def test_every_stage_has_a_module_that_exists_and_imports_are_left_to_the_step() -> None:
    from importlib.util import find_spec

    assert all(find_spec(stage.module) for stage in STAGES.values())


def test_pruning_a_quantized_network_fails_when_planning() -> None:
    steps = [
        Step("import", "import", {}),
        Step("export", "export", {}, {"checkpoint": OutputOf("import", "checkpoint")}),
        Step("prune", "prune", {}, {"checkpoint": OutputOf("export", "exported")}),
    ]
    with pytest.raises(
        UsageError, match=r"step 'prune' \(prune\) takes checkpoint as 'checkpoint', but 'export' makes: exported"
    ):
        check_order(steps, STAGES)


def test_an_input_that_no_earlier_step_makes_is_named() -> None:
    with pytest.raises(UsageError, match="step 'prune' wants 'checkpoint' of 'import', which no earlier step makes"):
        check_order([Step("prune", "prune", {}, {"checkpoint": OutputOf("import", "checkpoint")})], STAGES)


def test_a_missing_input_is_named() -> None:
    with pytest.raises(UsageError, match=r"step 'export' \(export\) lacks its input 'checkpoint'"):
        check_order([Step("export", "export", {})], STAGES)


def plan_with(*compress: CompressStep) -> Plan:
    recipe = load_recipe(TINY / "tiny.yaml", target=CPU, settings={}, environment={})
    host = HostFacts("onnxruntime-x86-vnni", {"onnxruntime": "1.31.1"}, "float32", "f" * 64)
    return make_plan(replace(recipe, compress=compress), CPU, sources=SOURCES, host=host)


RECOVER = Recover(epochs=2, learning_rate=0.001, distill=Distill())


def test_rounds_of_pruning_remove_together_what_is_asked_and_recover_in_between() -> None:
    plan = plan_with(Prune(macs=0.6, rounds=3, between=RECOVER), RECOVER)
    names = [step.name for step in plan.steps if step.stage in ("prune", "recover")]
    assert names == ["prune", "recover", "prune-2", "recover-2", "prune-3", "recover-3"]
    left = math.prod(1 - plan.step(name).parameters["macs"] for name in ("prune", "prune-2", "prune-3"))
    assert left == pytest.approx(0.4, abs=1e-4)
    assert plan.step("prune-2").inputs["checkpoint"] == OutputOf("recover", "checkpoint")
    assert plan.step("recover-3").inputs["teacher"] == OutputOf("import", "checkpoint")


def test_pruning_rounds_to_the_targets_channels_where_the_recipe_says_nothing() -> None:
    target = replace(CPU, channel_multiple=16)
    recipe = load_recipe(TINY / "tiny.yaml", target=CPU, settings={}, environment={})
    host = HostFacts("onnxruntime-x86-vnni", {}, "float32", "f" * 64)
    for asked, wanted in ((None, 16), (4, 4)):
        pruned = replace(recipe, compress=(Prune(macs=0.5, round_to=asked),))
        plan = make_plan(pruned, target, sources=SOURCES, host=host)
        assert plan.step("prune").parameters["round_to"] == wanted


def test_after_distillation_the_network_is_the_students_and_the_teacher_the_recipes() -> None:
    student = Student(epochs=3, learning_rate=0.01, factory="model:Small", arguments={"width": 4})
    plan = plan_with(student, Prune(macs=0.3), RECOVER)
    models = {
        step.name: step.parameters["model"]["factory"]
        for step in plan.steps
        if "model" in step.parameters and "factory" in step.parameters["model"]
    }
    assert models["import"] == models["reference/export"] == "model:TinyNet"
    assert {models[name] for name in ("student", "distill", "prune", "recover", "export")} == {"model:Small"}
    assert plan.step("recover").parameters["teacher_model"]["factory"] == "model:TinyNet"
    assert plan.step("distill").inputs == {
        "checkpoint": OutputOf("student", "checkpoint"),
        "teacher": OutputOf("import", "checkpoint"),
    }


def test_ranges_of_training_in_int8_reach_the_calibration() -> None:
    plan = plan_with(replace(RECOVER, quantized=True), Quantize())
    assert plan.step("calibrate").inputs["learned"] == OutputOf("recover", "ranges")
    assert plan.step("recover").parameters["dialect"] == "onnxruntime-x86-vnni"
    assert "learned" not in plan_with(RECOVER, Quantize()).step("calibrate").inputs


def test_precision_is_measured_unless_the_layers_are_named() -> None:
    assert plan_with(Quantize()).step("quantize").inputs["precision"] == OutputOf("assign_precision", "precision")
    named = plan_with(Quantize(keep_float=("head",)))
    assert "assign_precision" not in [step.name for step in named.steps]
    assert named.step("quantize").parameters["keep_float"] == ["head"]


def test_ranges_do_not_depend_on_the_dialect_unless_the_method_is_chosen_by_trying() -> None:
    fixed, tried = (plan_with(Quantize(calibration=Calibration(method=name))) for name in ("mse", "auto"))
    assert "dialect" not in fixed.step("calibrate").parameters
    assert tried.step("calibrate").parameters["dialect"] == "onnxruntime-x86-vnni"


def test_equalization_changes_what_is_calibrated_and_quantized() -> None:
    plan = plan_with(Quantize(equalize=True))
    for name in ("calibrate", "assign_precision", "quantize"):
        assert plan.step(name).inputs["network"] == OutputOf("equalize", "network")


def test_every_compress_step_of_a_checkpoint_follows_the_one_before() -> None:
    steps = (PruneBlocks(blocks=1), Factorize(macs=0.2), Recalibrate(), Sparsify(), RECOVER)
    plan = plan_with(*steps)
    chain = ["import", "prune_blocks", "factorize", "recalibrate", "sparsify", "recover"]
    for before, after in itertools.pairwise(chain):
        assert plan.step(after).inputs["checkpoint"] == OutputOf(before, "checkpoint")
