"""The plan is pure, and an order that cannot work fails before anything runs."""

from __future__ import annotations

import pytest

from enginewright.errors import UsageError
from enginewright.plan import OutputOf, Step, check_order
from enginewright.stages import STAGES


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
