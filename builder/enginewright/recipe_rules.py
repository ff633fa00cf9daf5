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
    from enginewright.compression import CompressStep, Recover
    from enginewright.recipe import Metric, Model, TargetSettings

__all__ = [
    "accuracy_drop_needs_auto",
    "either_blocks_or_latency",
    "either_factory_or_onnx",
    "either_macs_or_energy",
    "labels_are_needed",
    "lists_the_target",
    "onnx_cannot_be_trained",
    "order_of_compress_steps",
    "quantize_comes_once_and_last",
    "recovery_between_rounds",
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


def order_of_compress_steps(compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
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


def labels_are_needed(metric: Metric, compress: tuple[CompressStep, ...]) -> Iterator[Fault]:
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


def recovery_between_rounds(rounds: int, between: Recover | None) -> Iterator[Fault]:
    if rounds > 1 and between is None:
        yield Fault((), "how to recover between the rounds", missing="between")
    if rounds == 1 and between is not None:
        yield Fault(("between",), "needs rounds: 2 or more, for there is nothing between one round and the next")
    if between is not None and between.quantized:
        yield Fault(("between", "quantized"), "belongs to the last recover before quantize")


def either_blocks_or_latency(blocks: int | None, latency: float | None) -> Iterator[Fault]:
    yield from _either("blocks", blocks, "latency", latency)


def either_macs_or_energy(macs: float | None, energy: float | None) -> Iterator[Fault]:
    yield from _either("macs", macs, "energy", energy)


def _either(first: str, one: object, second: str, other: object) -> Iterator[Fault]:
    if (one is None) == (other is None):
        got = "neither" if one is None else "both"
        yield Fault((), f"must have either {first} or {second}, got {got}")


def accuracy_drop_needs_auto(keep_float: str | tuple[str, ...], accuracy_drop: float | None) -> Iterator[Fault]:
    if accuracy_drop is not None and keep_float != "auto":
        yield Fault(("accuracy_drop",), "needs keep_float: auto, which chooses the layers that stay float to hold it")


def lists_the_target(target_name: str, targets: Mapping[str, TargetSettings]) -> Iterator[Fault]:
    if target_name not in targets:
        meant = did_you_mean(target_name, targets, otherwise="It lists")
        yield Fault(("targets",), f"does not list '{target_name}' (add '{target_name}: {{}}' to build for it). {meant}")
