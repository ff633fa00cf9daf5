"""What a valid recipe is: a dataclass for each part, with the rules of its keys; and `load_recipe`, which reads one.

The dataclasses are the only place where a key, its default, its limits and its description stand: the messages, the
JSON Schema and the reference page come from them (`enginewright.schema`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from enginewright.compression import CompressStep
from enginewright.errors import RecipeError, did_you_mean
from enginewright.reader import named_as_its_file, parse
from enginewright.schema import FACTORY, FACTORY_WORDS, RULE, Check, Fault, Json, Rule
from enginewright.source import parse_yaml, read_text, shown
from enginewright.target import Target
from enginewright.template import SettingValue, render

__all__ = [
    "Budget",
    "Data",
    "Factory",
    "Metric",
    "Model",
    "Recipe",
    "TargetSettings",
    "TensorSpec",
    "effective_budget",
    "load_recipe",
]

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_NAME_WORDS = "a name of letters, digits, '-' and '_'"


# Rules that span several keys: each is given their values, every one valid by itself, and yields what is wrong between
# them.


def _either_factory_or_onnx(factory: str | None, onnx: str | None) -> Iterator[Fault]:
    if (factory is None) == (onnx is None):
        got = "neither" if factory is None else "both"
        yield Fault((), f"must have either factory (a torch network) or onnx (a network that comes as ONNX), got {got}")


def _weights_of_a_factory(factory: str | None, weights: str | None) -> Iterator[Fault]:
    if factory is not None and weights is None:
        yield Fault((), "the file with the trained weights of the factory's network", missing="weights")


def _what_onnx_forbids(
    onnx: str | None, factory: str | None, weights: str | None, arguments: Mapping[str, Json]
) -> Iterator[Fault]:
    if onnx is None or factory is not None:
        return
    if weights is not None:
        yield Fault(("weights",), "belongs to a factory: an ONNX file carries its own weights")
    if arguments:
        yield Fault(("arguments",), "belongs to a factory: an ONNX file takes none")


def _quantize_comes_once_and_last(compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
    places = [place for place, step in enumerate(compress) if step.KEY == "quantize"]
    for place in places[1:]:
        yield Fault(("compress", place, "quantize"), f"is one too many: compress[{places[0]}] quantizes already")
    if len(places) == 1 and places[0] != len(compress) - 1:
        sentence = "must be the last step: what follows would change the weights that it was calibrated for"
        yield Fault(("compress", places[0], "quantize"), sentence)


def _onnx_cannot_be_trained(model: Model, compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
    if model.onnx is None:
        return
    for place, step in enumerate(compress):
        if step.KEY != "quantize":
            yield Fault(
                ("compress", place, step.KEY),
                "needs a torch network, and model.onnx has no torch modules and no training graph: "
                "give model.factory and model.weights in its place, or only quantize",
            )


def _order_of_compress_steps(compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
    names = [step.KEY for step in compress]
    for place, step in enumerate(compress):
        later = names[place + 1 :]
        if step.KEY == "distill" and place > 0:
            sentence = "must be the first step: its student replaces the network that the steps before it changed"
            yield Fault(("compress", place, "distill"), sentence)
        if step.KEY == "sparsify" and (spoiling := set(later) & {"prune", "prune_blocks", "factorize"}):
            sentence = f"must come after {' and '.join(sorted(spoiling))}, which would break up its groups of four"
            yield Fault(("compress", place, "sparsify"), sentence)
        if step.KEY == "recover" and step.quantized and later[:1] != ["quantize"]:
            sentence = "must be followed by quantize, which uses the ranges that are learned"
            yield Fault(("compress", place, "recover", "quantized"), sentence)


def _labels_are_needed(metric: Metric, compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
    if metric != "fidelity":
        return
    for place, step in enumerate(compress):
        if step.KEY in ("recover", "distill", "prune_blocks") or (step.KEY == "prune" and step.between is not None):
            sentence = (
                "needs labels, and metric fidelity says that there are none: give another metric, or only quantize"
            )
            yield Fault(("compress", place, step.KEY), sentence)
        elif step.KEY == "prune" and step.importance in ("taylor", "hessian"):
            sentence = f"must not be {step.importance}, which needs labels, and metric fidelity says that there are none: take magnitude"
            yield Fault(("compress", place, "prune", "importance"), sentence)


def _lists_the_target(target_name: str, targets: Mapping[str, TargetSettings]) -> Iterator[Fault]:
    if target_name not in targets:
        meant = did_you_mean(target_name, targets, otherwise="It lists")
        yield Fault(("targets",), f"does not list '{target_name}' (add '{target_name}: {{}}' to build for it). {meant}")


@dataclass(frozen=True, kw_only=True)
class Factory:
    """A function or class of the recipe's own Python, and what to call it with."""

    factory: str = field(
        metadata={
            RULE: Rule(
                "function or class in the recipe's folder, written module:Name", pattern=FACTORY, words=FACTORY_WORDS
            )
        }
    )
    arguments: Mapping[str, Json] = field(
        default_factory=dict, metadata={RULE: Rule("keyword arguments for the factory")}
    )


@dataclass(frozen=True, kw_only=True)
class Data(Factory):
    """The data: its factory gives an object with the splits train, validation, calibration and test."""


Metric: TypeAlias = Literal["top1", "balanced_accuracy", "fidelity"] | Factory


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and dtype of one input of the network."""

    shape: tuple[int | str, ...] = field(
        metadata={
            RULE: Rule(
                "dimensions, the batch first: whole numbers, or names for those that may vary",
                minimum=1,
                pattern=r"[A-Za-z_]\w*",
                words="a name",
                least=1,
            )
        }
    )
    dtype: Literal["float32", "float16", "int64", "int32", "uint8", "bool"] = field(
        metadata={RULE: Rule("element type")}
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The trained network: a torch factory with its weights, or an ONNX file.

    Paths are relative to the recipe's folder; those that start with /, ./ or ../ are relative to the project.
    """

    factory: str | None = field(
        default=None,
        metadata={
            RULE: Rule(
                "function or class that returns a torch.nn.Module, written module:Name",
                pattern=FACTORY,
                words=FACTORY_WORDS,
            )
        },
    )
    arguments: Mapping[str, Json] = field(
        default_factory=dict, metadata={RULE: Rule("keyword arguments for the factory")}
    )
    weights: str | None = field(
        default=None,
        metadata={
            RULE: Rule(
                "file with the trained weights",
                pattern=r".*[^/]\.(safetensors|npz|pt|pth|th)",
                words="a path that ends in .safetensors, .npz, .pt, .pth or .th",
            )
        },
    )
    onnx: str | None = field(
        default=None,
        metadata={
            RULE: Rule("ONNX file, in place of a factory", pattern=r".*[^/]\.onnx", words="a path that ends in .onnx")
        },
    )
    inputs: Mapping[str, TensorSpec] = field(metadata={RULE: Rule("inputs of the network by name", least=1)})
    outputs: tuple[str, ...] = field(metadata={RULE: Rule("names of the outputs in order", least=1, unique=True)})

    CHECKS: ClassVar[tuple[Check, ...]] = (
        Check(("factory", "onnx"), _either_factory_or_onnx),
        Check(("factory", "weights"), _weights_of_a_factory),
        Check(("onnx", "factory", "weights", "arguments"), _what_onnx_forbids),
    )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits that the engine must keep. What is absent is not judged."""

    accuracy_drop: float | None = field(
        default=None,
        metadata={RULE: Rule("most accuracy that may be lost against the reference, as a share", minimum=0, maximum=1)},
    )
    latency_p50_ms: float | None = field(
        default=None, metadata={RULE: Rule("median latency of one inference", above=0, unit="ms")}
    )
    latency_p99_ms: float | None = field(
        default=None, metadata={RULE: Rule("99th percentile of the latency of one inference", above=0, unit="ms")}
    )
    size_mib: float | None = field(default=None, metadata={RULE: Rule("size of the engine", above=0, unit="MiB")})
    memory_mib: float | None = field(
        default=None, metadata={RULE: Rule("peak memory of a process that runs the engine", above=0, unit="MiB")}
    )


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """What this recipe asks of one target."""

    budget: Budget = field(
        default_factory=Budget, metadata={RULE: Rule("limits on this target; they come before the recipe's own")}
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model, its data, its compression and its budgets.

    `path` is its file, `rendered` the text that was parsed.
    """

    recipe: Literal[1] = field(
        metadata={
            RULE: Rule(
                "version of the recipe language: 1", words="1, the only version of the recipe language that is read"
            )
        }
    )
    name: str = field(metadata={RULE: Rule("the name of the file, without .yaml", pattern=_NAME, words=_NAME_WORDS)})
    summary: str = field(default="", metadata={RULE: Rule("one line for lists and reports")})
    sequence: int = field(
        default=0,
        metadata={
            RULE: Rule(
                "number of the bundle, larger for each newer one: a vehicle refuses a smaller one; 0 is unnumbered",
                minimum=0,
                maximum=2**63 - 1,
            )
        },
    )
    code: str | None = field(
        default=None,
        metadata={
            RULE: Rule(
                "folder in recipes/ whose Python and weights it uses, where it is another recipe's",
                pattern=_NAME,
                words=_NAME_WORDS,
            )
        },
    )
    model: Model = field(metadata={RULE: Rule("the trained network")})
    data: Data = field(metadata={RULE: Rule("where the samples come from that the steps and the metric use")})
    metric: Metric = field(
        metadata={
            RULE: Rule(
                "what accuracy is: top1, balanced_accuracy, fidelity (to the network as it came; no labels) or a factory"
            )
        }
    )
    compress: tuple[CompressStep, ...] = field(
        default=(), metadata={RULE: Rule("steps in their order; quantize comes last")}
    )
    budget: Budget = field(default_factory=Budget, metadata={RULE: Rule("limits on every target")})
    targets: Mapping[str, TargetSettings] = field(
        metadata={RULE: Rule("the targets that this recipe is for, by name", least=1)}
    )
    path: Path = field(default=Path(), compare=False)
    rendered: str = field(default="", compare=False)

    CHECKS: ClassVar[tuple[Check, ...]] = (
        Check(("compress",), _quantize_comes_once_and_last),
        Check(("compress",), _order_of_compress_steps),
        Check(("model", "compress"), _onnx_cannot_be_trained),
        Check(("metric", "compress"), _labels_are_needed),
    )


def load_recipe(
    path: Path, *, target: Target, settings: Mapping[str, SettingValue], environment: Mapping[str, str]
) -> Recipe:
    """Read the recipe at `path` for one target: rendered, parsed, validated.

    `settings` are the values of `--set`, `environment` is what the template sees as `env`. Raises RecipeError with
    every problem of the file, and UsageError where the template does not use a setting.
    """
    label = shown(path)
    text = read_text(path, error=RecipeError)
    rendered = render(text, label=label, target=target, settings=settings, environment=environment)
    document = parse_yaml(rendered, label=label, written=text)
    checks = (named_as_its_file(path), Check(("targets",), partial(_lists_the_target, target.name)))
    recipe = parse(Recipe, document, error=RecipeError, checks=checks)
    return replace(recipe, path=path.absolute(), rendered=rendered)


def effective_budget(recipe: Recipe, target_name: str) -> dict[str, float]:
    """The limits that hold on one target, by name: its own come before the recipe's. What is not limited is absent."""
    limits = {**_limits(recipe.budget), **_limits(recipe.targets[target_name].budget)}
    return {item.name: limits[item.name] for item in fields(Budget) if item.name in limits}


def _limits(budget: Budget) -> dict[str, float]:
    limits = {item.name: getattr(budget, item.name) for item in fields(Budget)}
    return {name: limit for name, limit in limits.items() if limit is not None}
