"""Prepare the recipes' material for the tests on a device: run it on a workstation that has the builder, and carry the
folder to the device.

    python -m tests.gpu.prepare FOLDER [RECIPE ...] [--target h200] [--mib 6]

For each recipe: the pending bundle, which the builder makes where it is not there, and test samples from all over the
test split with the outputs of the float reference and of the twin. Recipes that do not list the target are left out.
The samples are computed on as they are carried: exact as uint8, or else rounded to float16 first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.gpu.accuracy import METRICS, accuracy_of
from tests.gpu.prepared import PreparedError, Samples, as_carried, write_prepared

from enginewright_runtime.backends import Array, backend
from enginewright_runtime.canonical import strict_json
from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.host import machine
from enginewright_runtime.tensorrt.device import Device

if TYPE_CHECKING:
    from enginewright.build import BuildResult, Job
    from enginewright.datasets import Split

__all__ = ["main", "prepare_recipe", "recipes_for", "target_of"]

LEAST_SAMPLES = 512
_BATCH = 32


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all that list the target")
    parser.add_argument("--target", default="h200", help="default: %(default)s")
    parser.add_argument("--mib", type=float, default=6.0, help="of samples for each recipe (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        for recipe in options.recipes or recipes_for(options.target):
            print(prepare_recipe(options.folder, recipe, options.target, most_bytes=int(options.mib * 2**20)))
    except EnginewrightError as error:
        print(f"{error.message}\n{error.hint}".rstrip(), file=sys.stderr)
        return 2
    return 0


def recipes_for(target: str) -> tuple[str, ...]:
    """The recipes of this project that list the target. Raises PreparedError where there is none."""
    from enginewright.build import prepare
    from enginewright.errors import RecipeError
    from enginewright.project import find_project
    from enginewright.target import catalogue, load_target

    project, found = find_project(Path.cwd()), []
    load_target(target, catalogue(project))  # a target that is not there is told as such
    for recipe in project.recipe_names():
        try:
            prepare(project, recipe, target, settings={})
        except RecipeError as error:
            print(f"{recipe} is left out: {error.message}", file=sys.stderr)
        else:
            found.append(recipe)
    if not found:
        raise PreparedError(f"no recipe lists the target {target}", hint=f"add `{target}: {{}}` to a recipe's targets")
    return tuple(found)


def target_of(device: Device) -> str | None:
    """The target of the catalogue that a device is: by its compute capability, and among several by its number of SMs."""
    from enginewright.project import find_project
    from enginewright.target import catalogue, load_targets

    fitting = [
        target
        for target in load_targets(catalogue(find_project(Path.cwd())))
        if target.backend == "tensorrt"
        and target.machine in (None, machine())
        and target.compute_capability == device.compute_capability
    ]
    return min(fitting, key=lambda target: abs((target.sm_count or 0) - device.sm_count)).name if fitting else None


def prepare_recipe(folder: Path, recipe: str, target: str, *, most_bytes: int = 6 << 20) -> str:
    """Build what is not there, write the recipe's material, and say in one line what it is. Raises EnginewrightError."""
    from enginewright.build import build, prepare
    from enginewright.progress import watch
    from enginewright.project import find_project

    job = prepare(find_project(Path.cwd()), recipe, target, settings={})
    watching = watch(sys.stderr)
    try:
        result = build(job, watch=watching)
    finally:
        watching.close()
    metric, split = _metric_and_split(job, result)
    inputs, labels = _inputs(split, most_bytes)
    reference, twin = (_outputs(job, result, step, inputs) for step in ("reference/compile", "twin/compile"))
    samples = Samples(inputs, labels, reference, twin)
    accuracy = {side: accuracy_of(metric, outputs, samples) for side, outputs in _sides(samples).items()}
    write_prepared(folder, recipe, result.deliveries["bundle"], samples, metric=metric, accuracy=accuracy)
    size = sum(path.stat().st_size for path in (folder / recipe).iterdir())
    carried = ", ".join(f"{name} {as_carried(array)[1]}" for name, array in inputs.items())
    return (
        f"{recipe}: {len(samples)} of {len(split)} test samples ({carried}), {metric} of the reference "
        f"{accuracy['reference']:.4f} and of the twin {accuracy['twin']:.4f}, {size / 2**20:.1f} MiB"
    )


def _sides(samples: Samples) -> dict[str, Any]:
    return {"reference": samples.reference, "twin": samples.twin}


def _metric_and_split(job: Job, result: BuildResult) -> tuple[str, Split]:
    """As the build's own step `evaluate` has them. Raises PreparedError where the metric is the recipe's own code."""
    from enginewright.datasets import load_data, load_split
    from enginewright.device.evaluation import evaluating_step

    step = evaluating_step(job, next(step.record for step in result.steps if step.name == "evaluate"))
    metric = step.parameters["metric"].get("name")
    if metric not in METRICS:
        raise PreparedError(
            f"{job.recipe.name}: its metric is the recipe's own Python, which a device without the builder does not run",
            hint="evaluate it over SSH: enginewright build RECIPE --target TARGET --device ssh://user@host",
        )
    return metric, load_split(load_data(step), "test", step)


def _inputs(split: Split, most_bytes: int) -> tuple[dict[str, Array], Array | None]:
    """Samples from all over the split, as many as `most_bytes` hold, but LEAST_SAMPLES where there are so many."""
    [probe] = split.batches(1, order=[0])
    size = sum(array.size * (1 if _fits_a_byte(array) else 2) for array in probe.inputs.values())
    count = min(len(split), max(LEAST_SAMPLES, most_bytes // size))
    count = split.signature.whole_batches(count)
    batch = split.batch_size(_BATCH)
    order = [int(index) for index in np.linspace(0, len(split) - 1, count).round()]
    batches = list(split.batches(batch, order=order))
    stacked = {name: np.concatenate([one.inputs[name] for one in batches]) for name in batches[0].inputs}
    labels = [one.labels for one in batches if one.labels is not None]
    return {name: as_carried(array)[0] for name, array in stacked.items()}, np.concatenate(labels) if labels else None


def _fits_a_byte(array: Array) -> bool:
    return array.dtype.itemsize == 1 or as_carried(array)[1].startswith("uint8")


def _outputs(job: Job, result: BuildResult, step: str, inputs: dict[str, Array]) -> dict[str, Array]:
    """What the engine of one of the build's steps says of the samples."""
    record = next(done.record for done in result.steps if done.name == step)
    entry, engine = (job.store.object_path(record.outputs[name].digest).read_bytes() for name in ("entry", "engine"))
    described: Any = strict_json(entry)
    found: list[dict[str, Array]] = []
    with closing(backend(described["backend"]).open(engine, described["settings"])) as opened:
        fixed = opened.inputs[0].shape[0]
        batch = fixed if isinstance(fixed, int) else _BATCH
        count = len(next(iter(inputs.values())))
        for first in range(0, count, batch):
            found.append(opened.run({name: array[first : first + batch] for name, array in inputs.items()}))
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


if __name__ == "__main__":
    sys.exit(main())
