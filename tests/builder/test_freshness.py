"""One function decides whether a step is reused, and says why it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from enginewright.freshness import Examiner
from enginewright.plan import OutputOf, Plan, Step
from enginewright.record import Artifact, Ingredients, Record
from enginewright.sources import Source

IMPORT = Step(
    "import",
    "import",
    {"model": {"factory": "model:Net", "arguments": {"width": 8}}},
    {},
    {"weights": Source("a" * 64, "/x")},
)
EXPORT = Step("export", "export", {"model": {"factory": "model:Net"}}, {"checkpoint": OutputOf("import", "checkpoint")})
PLAN = Plan("signs", "cpu", (IMPORT, EXPORT))
VERSIONS = {"torch": "2.13.0"}


class World:
    """A store and an environment in memory."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.damaged: set[str] = set()
        self.versions: Mapping[str, str] = VERSIONS

    def examiner(self, plan: Plan = PLAN, previous: Mapping[str, Record] | None = None) -> Examiner:
        return Examiner(
            plan,
            self.records.get,
            lambda artifact: "is missing" if artifact.digest in self.damaged else "",
            lambda name: self.versions.get(name, "1.0"),
            previous or {},
        )

    def run(self, examiner: Examiner, step: Step, digest: str) -> Record:
        """As a build would: the step's record goes to the store and the examiner learns it."""
        ingredients = examiner.examine(step).ingredients
        assert ingredients is not None
        output = "checkpoint" if step is IMPORT else "exported"
        record = Record(step.name, ingredients, {output: Artifact(digest, output, 1)}, 1.0)
        self.records[record.key] = record
        examiner.learn(step, record)
        return record


def built() -> tuple[World, dict[str, Record]]:
    world = World()
    examiner = world.examiner()
    return world, {step.name: world.run(examiner, step, str(place) * 64) for place, step in enumerate(PLAN.steps)}


def test_what_was_never_built_is_stale_and_what_follows_waits() -> None:
    examiner = World().examiner()
    first, second = (examiner.examine(step) for step in PLAN.steps)
    assert (first.status, first.reasons) == ("stale", ("it was never built",))
    assert (second.status, second.reasons) == ("waits", ("waits for import",))


def test_the_same_ingredients_are_reused() -> None:
    world, _ = built()
    examiner = world.examiner()
    assert [examiner.examine(step).status for step in PLAN.steps] == ["reused", "reused"]


def test_a_changed_file_is_named_with_both_digests() -> None:
    world, previous = built()
    edited = replace(IMPORT, sources={"weights": Source("b" * 64, "/x")})
    found = world.examiner(Plan("signs", "cpu", (edited, EXPORT)), previous).examine(edited)
    assert found.reasons == (f"file weights changed: {'a' * 12} -> {'b' * 12}",)


def test_where_a_file_lies_does_not_matter() -> None:
    world, previous = built()
    moved = replace(IMPORT, sources={"weights": Source("a" * 64, "/elsewhere")})
    assert world.examiner(Plan("signs", "cpu", (moved, EXPORT)), previous).examine(moved).status == "reused"


def test_a_changed_parameter_is_named_with_its_path_and_both_values() -> None:
    world, previous = built()
    edited = replace(IMPORT, parameters={"model": {"factory": "model:Net", "arguments": {"width": 16}}})
    found = world.examiner(Plan("signs", "cpu", (edited, EXPORT)), previous).examine(edited)
    assert found.reasons == ("parameter model.arguments.width changed: 8 -> 16",)


def test_another_version_of_a_tool_makes_a_step_stale() -> None:
    world, previous = built()
    world.versions = {"torch": "2.14.0"}
    assert world.examiner(previous=previous).examine(IMPORT).reasons == ("tool torch changed: 2.13.0 -> 2.14.0",)


def test_the_same_output_from_another_key_stops_the_rebuild() -> None:
    world, previous = built()
    edited = replace(IMPORT, sources={"weights": Source("b" * 64, "/x")})
    examiner = world.examiner(Plan("signs", "cpu", (edited, EXPORT)), previous)
    ingredients = examiner.examine(edited).ingredients
    assert ingredients is not None
    examiner.learn(edited, Record("import", ingredients, {"checkpoint": Artifact("0" * 64, "checkpoint", 1)}, 1.0))
    assert examiner.examine(EXPORT).status == "reused"


def test_a_damaged_output_is_said_and_rebuilt() -> None:
    world, previous = built()
    world.damaged = {"0" * 64}
    assert world.examiner(previous=previous).examine(IMPORT).reasons == ("its checkpoint in the store is missing",)


def test_a_provisional_result_is_not_reused_and_says_why() -> None:
    world, previous = built()
    for key, record in list(world.records.items()):
        world.records[key] = replace(record, provisional="the last measurement was inconclusive")
    assert world.examiner(previous=previous).examine(IMPORT).reasons == ("the last measurement was inconclusive",)


@pytest.mark.parametrize("change", [{"stage": "prune"}, {"version": 2}, {"parameters": {"a": 1}}, {"inputs": {"x": "1"}},
                                    {"sources": {"x": "1"}}, {"tools": {"x": "1"}}, {"history": {"x": "1"}}])  # fmt: skip
def test_every_ingredient_changes_the_key(change: dict[str, object]) -> None:
    ingredients = Ingredients("import", 1, {})
    changed = Ingredients(**{**ingredients.to_json(), **change})  # type: ignore[arg-type]
    assert changed.key != ingredients.key
    assert len(ingredients.key) == 64
