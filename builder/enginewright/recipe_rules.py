"""The rules of a recipe that span several keys, each with the sentence that is said where it is broken.

`enginewright.recipe` names them beside the keys. Each is given the values of its keys, every one valid by itself, and
yields what is wrong between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from enginewright.errors import did_you_mean
from enginewright.schema import Fault, Json

if TYPE_CHECKING:
    from enginewright.recipe import CompressStep, Metric, Model, TargetSettings

__all__ = [
    "either_factory_or_onnx",
    "labels_are_needed",
    "lists_the_target",
    "onnx_cannot_be_trained",
    "quantize_comes_once_and_last",
    "weights_of_a_factory",
    "what_onnx_forbids",
]


def either_factory_or_onnx(factory: str | None, onnx: str | None) -> Iterator[Fault]:
    if (factory is None) == (onnx is None):
        got = "neither" if factory is None else "both"
        yield Fault((), f"must have either factory (a torch network) or onnx (a network that comes as ONNX), got {got}")


def weights_of_a_factory(factory: str | None, weights: str | None) -> Iterator[Fault]:
    if factory is not None and weights is None:
        yield Fault((), "the file with the trained weights of the factory's network", missing="weights")


def what_onnx_forbids(
    onnx: str | None, factory: str | None, weights: str | None, arguments: Mapping[str, Json]
) -> Iterator[Fault]:
    if onnx is None or factory is not None:
        return
    if weights is not None:
        yield Fault(("weights",), "belongs to a factory: an ONNX file carries its own weights")
    if arguments:
        yield Fault(("arguments",), "belongs to a factory: an ONNX file takes none")


def quantize_comes_once_and_last(compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
    places = [place for place, step in enumerate(compress) if step.KEY == "quantize"]
    for place in places[1:]:
        yield Fault(("compress", place, "quantize"), f"is one too many: compress[{places[0]}] quantizes already")
    if len(places) == 1 and places[0] != len(compress) - 1:
        sentence = "must be the last step: what follows would change the weights that it was calibrated for"
        yield Fault(("compress", places[0], "quantize"), sentence)


def onnx_cannot_be_trained(model: Model, compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
    if model.onnx is None:
        return
    for place, step in enumerate(compress):
        if step.KEY != "quantize":
            yield Fault(
                ("compress", place, step.KEY),
                "needs a torch network, and model.onnx has no torch modules and no training graph: "
                "give model.factory and model.weights in its place, or only quantize",
            )


def labels_are_needed(metric: Metric, compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
    if metric != "fidelity":
        return
    for place, step in enumerate(compress):
        if step.KEY == "recover":
            sentence = (
                "needs labels, and metric fidelity says that there are none: give another metric, or only quantize"
            )
            yield Fault(("compress", place, "recover"), sentence)
        elif step.KEY == "prune" and step.importance == "taylor":
            sentence = "must be magnitude: taylor needs labels, and metric fidelity says that there are none"
            yield Fault(("compress", place, "prune", "importance"), sentence)


def lists_the_target(target_name: str, targets: Mapping[str, TargetSettings]) -> Iterator[Fault]:
    if target_name not in targets:
        meant = did_you_mean(target_name, targets, otherwise="It lists")
        yield Fault(("targets",), f"does not list '{target_name}' (add '{target_name}: {{}}' to build for it). {meant}")
