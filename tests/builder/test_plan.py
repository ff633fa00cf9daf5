"""The plan is pure, and an order that cannot work fails before anything runs."""

from __future__ import annotations

import pytest
from tests.tiny_project import TINY

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


def test_another_dialect_changes_how_the_network_is_quantized() -> None:
    assert changed(plan_of({}), plan_of({}, dialect="onnxruntime-arm")) == ["quantize"]


def test_another_host_makes_the_measurement_stale_and_nothing_else() -> None:
    assert changed(plan_of({}), plan_of({}, fingerprint="0" * 64)) == ["measure"]


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
