"""The networks of all recipes, in int8 for TensorRT, before NVIDIA's own parser and builder.

Nothing is trained: a network's structure decides what is parsed, fused and run on integers. The recipes are those in
the folder, so that a new one is tested, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from tests.tensorrt_rtx import int8_layers

from enginewright.compression import CompressStep, Factorize, Prune, Sparsify
from enginewright.datasets import load_data, load_split
from enginewright.errors import DataError, RecipeError
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.layers import layers
from enginewright.graph.lint import lint
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import calibrate
from enginewright.graph.sparsity import sparse_layers
from enginewright.plan import HostFacts, OutputOf, Plan, Step, make_plan
from enginewright.project import Project
from enginewright.recipe import Recipe, load_recipe
from enginewright.running import RunningStep
from enginewright.sources import Source, gather_sources, place_sources
from enginewright.stages import STAGES
from enginewright.target import Target, catalogue, load_targets

ROOT = Path(__file__).parents[2]
DATA = ROOT / (os.environ.get("ENGINEWRIGHT_DATA") or "../shared/data")
PROJECT = Project(ROOT, ROOT / ".enginewright")
TENSORRT = DIALECTS["tensorrt"]
HOST = HostFacts("tensorrt", {}, "float32", "0" * 64)
SAMPLES = 16
CAPABILITIES = ("SM86", "SM120")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def recipe_modules() -> Iterator[None]:
    """Every recipe has a `model` and a `data`: they are forgotten afterwards, and the folder is that of the project."""
    path, hooks, modules, folder = list(sys.path), list(sys.path_hooks), set(sys.modules), Path.cwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(folder)
        sys.path[:], sys.path_hooks[:] = path, hooks
        for name in set(sys.modules) - modules:
            if str(ROOT / "recipes") in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


@cache
def recipe_named(name: str) -> tuple[Recipe, Target]:
    """The recipe for the first target that it lists: its network is the same for all."""
    path = PROJECT.recipe_path(name)
    if "ENGINEWRIGHT_DATA" in path.read_text() and not DATA.is_dir():
        pytest.skip(f"there is no {DATA}: set ENGINEWRIGHT_DATA to the folder with the data")
    errors: list[RecipeError] = []
    for target in load_targets(catalogue(PROJECT)):
        try:
            return load_recipe(path, target=target, settings={}, environment=os.environ), target
        except RecipeError as error:
            errors.append(error)
    raise errors[0]


class Made:
    """The steps of a plan, run one after the other until the float network is there."""

    def __init__(self, recipe: Recipe, plan: Plan, folder: Path) -> None:
        self.recipe, self.plan, self.folder = recipe, plan, folder
        self.outputs: dict[OutputOf, Path] = {}

    def until(self, last: str, *, without: str = "-") -> Path:
        for step in self.plan.steps:
            if not step.name.startswith(without):
                self._run(step)
            if step.name == last:
                return self.outputs[OutputOf(last, "network")]
        raise AssertionError(f"the plan has no step '{last}'")

    def _run(self, step: Step) -> None:
        stage, staging = STAGES[step.stage], self.folder / step.name
        staging.mkdir(parents=True)
        inputs = {name: self.outputs[made] for name, made in step.inputs.items()}
        inputs |= {name: Path(step.sources[name].location) for name in ("weights", "onnx") if name in step.sources}
        import_module(stage.module).run(self._running(step, inputs, staging))
        self.outputs |= {OutputOf(step.name, name): staging / name for name in stage.produces}

    def _running(self, step: Step, inputs: Mapping[str, Path], staging: Path) -> RunningStep:
        sources: Mapping[str, Source] = step.sources
        parameters = place_sources(dict(step.parameters), sources)
        assert isinstance(parameters, dict)
        code = PROJECT.code_folder(self.recipe.path, self.recipe.code)
        return RunningStep(step.name, parameters, inputs, staging, self.folder / "unfinished", code, lambda event: None)

    def samples(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """A short calibration: the first samples of the split."""
        step = next(step for step in self.plan.steps if "data" in step.parameters)
        running = self._running(step, {}, self.folder)
        split = load_split(load_data(running), "calibration", running)
        return next(split.batches(split.signature.batch_size(SAMPLES), order=range(min(SAMPLES, len(split))))).inputs


def quantized_network(name: str, folder: Path, *compress: CompressStep) -> onnx.ModelProto:
    """The recipe's network in int8 for TensorRT, after these compress steps and without the recipe's own.

    A network of which no layer gains by int8 comes as it is.
    """
    recipe, target = recipe_named(name)
    recipe = replace(recipe, compress=compress)
    with recipe_modules():
        plan = make_plan(recipe, target, sources=gather_sources(recipe, PROJECT, target=target.name), host=HOST)
        made = Made(recipe, plan, folder)
        path = made.until("simplify", without="reference/") if compress else made.until("reference/simplify")
        samples = made.samples()
    network = onnx.load(path)
    scales = calibrate(network, tensors_to_calibrate(network), [samples], method="minmax")
    try:
        return quantize(network, scales, TENSORRT)
    except DataError as error:
        if "nothing in the network can be quantized" not in error.message:
            raise
        return network


@pytest.fixture(scope="module")
def as_it_came(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], onnx.ModelProto]:
    """The quantized network of a recipe without any compress step; recipes that share a network get the same one."""
    made: dict[str, onnx.ModelProto] = {}

    def make(name: str) -> onnx.ModelProto:
        recipe, _ = recipe_named(name)
        key = repr((recipe.model, recipe.data, PROJECT.code_folder(recipe.path, recipe.code)))
        if key not in made:
            made[key] = quantized_network(name, tmp_path_factory.mktemp(name))
        return made[key]

    return make


def check(quantized: onnx.ModelProto) -> set[str]:
    """It is linted, parsed and built, and what is int8 in the graph is int8 in the engine. Returns those layers."""
    assert lint(quantized, TENSORRT) == ()
    table = layers(quantized)
    # TensorRT-RTX 1.7 has no integer kernel for transposed convolutions and makes these float again.
    integer = {layer.name for layer in table if layer.precision == "int8" and layer.op != "ConvTranspose"}
    for capability in CAPABILITIES:
        assert int8_layers(quantized, capability=capability) & {layer.name for layer in table} == integer
    return integer


@pytest.mark.parametrize("name", PROJECT.recipe_names())
def test_the_network_of_every_recipe_is_parsed_and_built_in_int8(
    name: str, as_it_came: Callable[[str], onnx.ModelProto]
) -> None:
    quantized = as_it_came(name)
    pairs = sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    assert bool(check(quantized)) == bool(pairs)


@pytest.mark.parametrize(("name", "integer"), [("signs", 18), ("lights", 5), ("resnet20", 18)])
def test_all_layers_but_the_first_and_the_head_are_int8(
    name: str, integer: int, as_it_came: Callable[[str], onnx.ModelProto]
) -> None:
    """Three channels are too few for an integer kernel, and a head multiplies one row: the rest must not fall back."""
    assert sum(layer.precision == "int8" for layer in layers(as_it_came(name))) == integer


def test_a_pruned_network_is_parsed_and_built_in_int8(tmp_path: Path) -> None:
    quantized = quantized_network("signs", tmp_path, Prune(macs=0.4, importance="magnitude", keep=("head",)))
    channels = {layer.output_shape[1] for layer in layers(quantized) if layer.op == "Conv"}
    assert {size % 8 for size in channels} == {0}
    assert channels - {32, 64, 128}
    assert check(quantized)


def test_a_factorized_network_is_parsed_and_built_in_int8(tmp_path: Path) -> None:
    integer = check(quantized_network("signs", tmp_path, Factorize(macs=0.4)))
    assert len([name for name in integer if name.endswith((".first", ".core", ".last"))]) > 20


def test_a_sparse_network_is_parsed_and_built_in_int8_with_its_zeros(tmp_path: Path) -> None:
    quantized = quantized_network("signs", tmp_path, Sparsify())
    assert check(quantized) < set(sparse_layers(quantized))
