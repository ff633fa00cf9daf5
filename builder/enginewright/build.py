"""Builds a recipe for a target: plans it, reuses what is fresh, runs the rest step by step, and delivers the bundle and
its report.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from enginewright.errors import EnginewrightError, NoSpace, StoreError, UsageError
from enginewright.freshness import Examiner, Freshness
from enginewright.hosts import host_facts
from enginewright.launch import launch
from enginewright.plan import Plan, Step, make_plan
from enginewright.progress import Watch
from enginewright.project import Project
from enginewright.recipe import Recipe, load_recipe
from enginewright.record import Artifact, Record
from enginewright.sources import gather_sources
from enginewright.store import Store
from enginewright.target import Target, catalogue, load_target
from enginewright.worker import Spec
from enginewright_runtime.atomic import write_file
from enginewright_runtime.canonical import Json, sha256_file, sha256_hex

__all__ = ["BuildResult", "Job", "StepResult", "build", "examiner_of", "prepare"]

_DELIVERIES = {"bundle": ".ewb", "report_html": ".html", "report_markdown": ".md"}


@dataclass(frozen=True)
class Job:
    """What was asked for: one recipe for one target, planned."""

    project: Project
    recipe: Recipe
    target: Target
    plan: Plan
    store: Store

    @property
    def name(self) -> str:
        """What the files in dist/ are called."""
        return f"{self.recipe.name}-{self.target.name}"

    @property
    def build_name(self) -> str:
        """What the store calls this build. A store outside the project may be shared, so there the project has a part in it."""
        name = f"{self.recipe.name}@{self.target.name}"
        if self.store.root.is_relative_to(self.project.root):
            return name
        return f"{name}@{sha256_hex(str(self.project.root).encode())[:12]}"


@dataclass(frozen=True)
class StepResult:
    """`status` is "built" or "reused"; the record is that of the run that made the result."""

    name: str
    status: str
    record: Record


@dataclass(frozen=True)
class BuildResult:
    """`result` is the pack stage's: verdict, accuracy, latencies, sizes, MACs. `deliveries` maps "bundle",
    "report_html" and "report_markdown" to files.
    """

    steps: tuple[StepResult, ...]
    result: Mapping[str, Any]
    deliveries: Mapping[str, Path]


def prepare(project: Project, recipe: str, target: str, *, settings: Mapping[str, Any]) -> Job:
    """Read recipe and target and plan the build. Touches no artifact and imports nothing heavy."""
    device = load_target(target, catalogue(project))
    parsed = load_recipe(project.recipe_path(recipe), target=device, settings=settings, environment=os.environ)
    plan = make_plan(
        parsed, device, sources=gather_sources(parsed, project, target=device.name), host=host_facts(device)
    )
    return Job(project, parsed, device, plan, Store(project.store))


def examiner_of(job: Job) -> Examiner:
    """Decides about the job's steps, with the store's records and the versions installed here."""
    last = job.store.last_build(job.build_name)
    previous = {name: record for name, key in last.items() if (record := job.store.record(key)) is not None}
    return Examiner(job.plan, job.store.record, job.store.damage, version_of, previous)


@cache
def version_of(distribution: str) -> str:
    """The installed version of a tool. Raises UsageError naming what to install."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            f"{distribution} is not installed, and a step needs it", hint=f"pip install {distribution}"
        ) from None


def build(job: Job, *, watch: Watch) -> BuildResult:
    """Make whatever is stale, in order, each step in a process of its own, and put the results into the project's
    dist/.

    What has finished stays in the store, however this ends. Raises the first failing step's error.
    """
    examiner = examiner_of(job)
    results: list[StepResult] = []
    keys: dict[str, str] = dict(job.store.last_build(job.build_name))
    steps = job.plan.steps
    with ExitStack() as stack:
        for position, step in enumerate(steps, 1):
            freshness = examiner.examine(step)
            if freshness.record is not None:
                results.append(StepResult(step.name, "reused", freshness.record))
                continue
            if all(result.status == "reused" for result in results):
                stack.enter_context(job.store.in_use())  # from the first step that runs: a no-op build writes nothing
            watch.begins(step.name, position, len(steps), freshness.reasons)
            result = _run(job, step, freshness, watch)
            watch.ends(step.name, result.status, result.record.seconds, result.record.summary)
            examiner.learn(step, result.record)
            results.append(result)
            job.store.note_build(job.build_name, {**keys, **{done.name: done.record.key for done in results}})
    job.store.note_build(job.build_name, {result.name: result.record.key for result in results})
    packed = results[-1].record
    content = json.loads(_packed(job.store, packed.outputs["result"]))
    return BuildResult(tuple(results), content, _deliver(job, packed))


def _run(job: Job, step: Step, freshness: Freshness, watch: Watch) -> StepResult:
    assert freshness.ingredients is not None  # a step that waits cannot come up: all before it have run
    spec = Spec(
        name=step.name,
        ingredients=freshness.ingredients,
        locations={label: source.location for label, source in step.sources.items()},
        store=job.store.root,
        project=job.project.root,
        code_folder=job.project.code_folder(job.recipe.path, job.recipe.code),
    )

    def hear(event: Mapping[str, Json]) -> None:
        watch.event(step.name, event)

    launched = launch(spec, on_event=hear)
    record = job.store.record(launched.key)
    if record is None:
        raise StoreError(
            f"step '{step.name}' ran, but its record is not in the store {job.store.root}",
            hint="was the store swept meanwhile? Build again",
        )
    return StepResult(step.name, "built" if launched.built else "reused", record)


def _deliver(job: Job, packed: Record) -> dict[str, Path]:
    """Copy the bundle and its reports to dist/, unless they are there already."""
    deliveries = {}
    for output, suffix in _DELIVERIES.items():
        artifact = packed.outputs[output]
        target = job.project.dist / f"{job.name}{suffix}"
        if not _is_delivered(target, artifact):
            content = _packed(job.store, artifact)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_file(target, content)
            except OSError as error:
                raise _undelivered(target, error) from error
        deliveries[output] = target
    return deliveries


def _is_delivered(target: Path, artifact: Artifact) -> bool:
    try:
        return target.is_file() and sha256_file(target) == artifact.digest
    except OSError:
        return False  # cannot be read: it is replaced


def _packed(store: Store, artifact: Artifact) -> bytes:
    try:
        return store.object_path(artifact.digest).read_bytes()
    except OSError as error:
        raise StoreError(
            f"the {artifact.kind} is gone from the store {store.root}: {error.strerror}; build again",
            hint="was the store removed or swept while the build ran?",
        ) from error


def _undelivered(target: Path, error: OSError) -> EnginewrightError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"no space left on the disk of {target.parent}", hint="free some space and build again: all steps are kept"
        )
    return UsageError(
        f"cannot write {target}: {error.strerror}",
        hint=f"move away what is in the way, or make {target.parent} writable, and build again: all steps are kept",
    )
