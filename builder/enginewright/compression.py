"""The compress steps of a recipe: a dataclass for each, with the rules of its keys, in the words of the schema language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from enginewright.schema import FACTORY, FACTORY_WORDS, RULE, Check, Fault, Json, Rule

__all__ = [
    "Calibration",
    "CompressStep",
    "Distill",
    "Factorize",
    "Prune",
    "PruneBlocks",
    "Quantize",
    "Recalibrate",
    "Recover",
    "Sparsify",
    "Student",
    "Training",
]


# Rules that span several keys of a step: each is given their values, and yields what is wrong between them.


def _recovery_between_rounds(rounds: int, between: Recover | None) -> Iterator[Fault]:
    if rounds > 1 and between is None:
        yield Fault((), "how to recover between the rounds", missing="between")
    if rounds == 1 and between is not None:
        yield Fault(("between",), "needs rounds: 2 or more, for there is nothing between one round and the next")
    if between is not None and between.quantized:
        yield Fault(("between", "quantized"), "belongs to the last recover before quantize")


def _either_blocks_or_latency(blocks: int | None, latency: float | None) -> Iterator[Fault]:
    yield from _either("blocks", blocks, "latency", latency)


def _either_macs_or_energy(macs: float | None, energy: float | None) -> Iterator[Fault]:
    yield from _either("macs", macs, "energy", energy)


def _either(first: str, one: object, second: str, other: object) -> Iterator[Fault]:
    if (one is None) == (other is None):
        got = "neither" if one is None else "both"
        yield Fault((), f"must have either {first} or {second}, got {got}")


def _accuracy_drop_needs_auto(keep_float: str | tuple[str, ...], accuracy_drop: float | None) -> Iterator[Fault]:
    if accuracy_drop is not None and keep_float != "auto":
        yield Fault(("accuracy_drop",), "needs keep_float: auto, which chooses the layers that stay float to hold it")


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Learn from the outputs of the network as it came."""

    temperature: float = field(
        default=4.0, metadata={RULE: Rule("softens both outputs before they are compared", above=0)}
    )
    weight: float = field(
        default=0.7,
        metadata={
            RULE: Rule("share of the loss that the outputs have; the labels have the rest", minimum=0, maximum=1)
        },
    )
    features: tuple[str, ...] = field(
        default=(),
        metadata={
            RULE: Rule("modules whose attention maps are learned, too, by their name in both networks", unique=True)
        },
    )
    feature_weight: float = field(
        default=1.0, metadata={RULE: Rule("weight of the attention maps beside the rest of the loss", above=0)}
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained: what `recover` and `distill` have in common."""

    epochs: int = field(metadata={RULE: Rule("passes over the training split", minimum=1, maximum=1000, unit="epochs")})
    learning_rate: float = field(metadata={RULE: Rule("learning rate at the start", above=0)})
    batch_size: int = field(default=64, metadata={RULE: Rule("training samples in a batch", minimum=1, unit="samples")})
    weight_decay: float = field(default=0.0005, metadata={RULE: Rule("weight decay", minimum=0)})
    ema: float = field(
        default=0.0,
        metadata={
            RULE: Rule(
                "decay of the moving average of the weights, which is then what is kept; 0 keeps the weights themselves",
                minimum=0,
                maximum=0.99999,
            )
        },
    )
    seed: int = field(default=0, metadata={RULE: Rule("seed of the order of the samples", minimum=0)})
    processes: int = field(
        default=1,
        metadata={RULE: Rule("processes that share each batch (torchrun)", minimum=1, maximum=64, unit="processes")},
    )


@dataclass(frozen=True, kw_only=True)
class Recover(Training):
    """Fine-tune, and keep the epoch that is best on the validation split."""

    KEY: ClassVar[Literal["recover"]] = "recover"

    distill: Distill | None = field(default=None, metadata={RULE: Rule("learn from the network as it came, too")})
    quantized: bool = field(
        default=False,
        metadata={
            RULE: Rule("train with int8 arithmetic simulated (QAT): the ranges that are learned are those of quantize")
        },
    )


@dataclass(frozen=True, kw_only=True)
class Student(Training):
    """Train another architecture to give what the network gives, and go on with that."""

    KEY: ClassVar[Literal["distill"]] = "distill"

    factory: str = field(
        metadata={
            RULE: Rule(
                "function or class that returns the student, written module:Name", pattern=FACTORY, words=FACTORY_WORDS
            )
        }
    )
    arguments: Mapping[str, Json] = field(
        default_factory=dict, metadata={RULE: Rule("keyword arguments for the factory")}
    )
    inherit: bool = field(
        default=True,
        metadata={RULE: Rule("start from the network's weights where name and shape agree; false starts at random")},
    )
    distill: Distill = field(default_factory=Distill, metadata={RULE: Rule("how it learns from the network")})


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Remove channels until the asked share of the multiply-accumulates is gone."""

    KEY: ClassVar[Literal["prune"]] = "prune"

    macs: float = field(
        metadata={RULE: Rule("share of the multiply-accumulates to remove", minimum=0.05, maximum=0.95)}
    )
    importance: Literal["taylor", "magnitude", "batch_norm", "lamp", "fpgm", "hessian"] = field(
        default="taylor",
        metadata={
            RULE: Rule(
                "how the worth of a channel is judged: taylor and hessian look at training samples, the others at weights"
            )
        },
    )
    round_to: int | None = field(
        default=None,
        metadata={
            RULE: Rule(
                "channel counts are kept at multiples of this; without it, at the target's channel_multiple",
                minimum=1,
                maximum=128,
            )
        },
    )
    keep: tuple[str, ...] = field(
        default=(), metadata={RULE: Rule("modules to leave as they are, by their name in the network", unique=True)}
    )
    samples: int = field(
        default=512, metadata={RULE: Rule("training samples that the importance looks at", minimum=1, unit="samples")}
    )
    rounds: int = field(
        default=1,
        metadata={RULE: Rule("prune in so many rounds, each by the same factor", minimum=1, maximum=20, unit="rounds")},
    )
    between: Recover | None = field(default=None, metadata={RULE: Rule("how to recover between the rounds")})

    CHECKS: ClassVar[tuple[Check, ...]] = (Check(("rounds", "between"), _recovery_between_rounds),)


@dataclass(frozen=True, kw_only=True)
class PruneBlocks:
    """Remove whole residual blocks: those that cost most time for the least worth, both measured."""

    KEY: ClassVar[Literal["prune_blocks"]] = "prune_blocks"

    blocks: int | None = field(default=None, metadata={RULE: Rule("number of blocks to remove", minimum=1)})
    latency: float | None = field(
        default=None, metadata={RULE: Rule("share of the latency to remove", minimum=0.02, maximum=0.9)}
    )
    keep: tuple[str, ...] = field(
        default=(), metadata={RULE: Rule("blocks to leave as they are, by their name in the network", unique=True)}
    )
    samples: int = field(
        default=512, metadata={RULE: Rule("training samples that the worth is measured on", minimum=1, unit="samples")}
    )

    CHECKS: ClassVar[tuple[Check, ...]] = (Check(("blocks", "latency"), _either_blocks_or_latency),)


@dataclass(frozen=True, kw_only=True)
class Factorize:
    """Replace linear layers and convolutions by two or three thinner ones (SVD, Tucker-2)."""

    KEY: ClassVar[Literal["factorize"]] = "factorize"

    macs: float | None = field(
        default=None,
        metadata={RULE: Rule("share of the multiply-accumulates to remove", minimum=0.05, maximum=0.95)},
    )
    energy: float | None = field(
        default=None,
        metadata={RULE: Rule("share of each layer's squared weights that must remain", minimum=0.1, maximum=0.9999)},
    )
    keep: tuple[str, ...] = field(
        default=(), metadata={RULE: Rule("modules to leave as they are, by their name in the network", unique=True)}
    )

    CHECKS: ClassVar[tuple[Check, ...]] = (Check(("macs", "energy"), _either_macs_or_energy),)


@dataclass(frozen=True, kw_only=True)
class Sparsify:
    """Set two of every four weights along the input channels to zero, for the sparse units of Ampere and newer."""

    KEY: ClassVar[Literal["sparsify"]] = "sparsify"

    pattern: Literal["2:4"] = field(default="2:4", metadata={RULE: Rule("zeros in each group of weights")})
    keep: tuple[str, ...] = field(
        default=(), metadata={RULE: Rule("modules to leave as they are, by their name in the network", unique=True)}
    )


@dataclass(frozen=True, kw_only=True)
class Recalibrate:
    """Take the statistics of batch normalization anew: after pruning, those of before no longer fit."""

    KEY: ClassVar[Literal["recalibrate"]] = "recalibrate"

    samples: int = field(default=1024, metadata={RULE: Rule("training samples", minimum=2, unit="samples")})


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the ranges of activations are found."""

    method: Literal["auto", "minmax", "percentile", "entropy", "mse"] = field(
        default="auto",
        metadata={
            RULE: Rule(
                "how a range is chosen: auto tries the others on held-back samples; percentile keeps 99.99 % of the values"
            )
        },
    )
    samples: int = field(
        default=512, metadata={RULE: Rule("calibration samples", minimum=8, maximum=1_000_000, unit="samples")}
    )


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Calibrate and quantize to int8."""

    KEY: ClassVar[Literal["quantize"]] = "quantize"

    calibration: Calibration = field(
        default_factory=Calibration, metadata={RULE: Rule("how the ranges of activations are found")}
    )
    equalize: bool = field(default=False, metadata={RULE: Rule("even out the ranges of channels between layers first")})
    rounding: Literal["nearest", "adaptive"] = field(
        default="nearest",
        metadata={
            RULE: Rule(
                "how weights become integers: adaptive lets each rounding make up for those before it in its layer"
            )
        },
    )
    correct_bias: bool = field(
        default=False, metadata={RULE: Rule("take the mean error of each channel out of its bias")}
    )
    keep_float: Literal["auto"] | tuple[str, ...] = field(
        default="auto",
        metadata={
            RULE: Rule(
                "nodes to leave in float: auto measures which are no faster or too sensitive in int8; or names, "
                "where * stands for anything",
                unique=True,
            )
        },
    )
    accuracy_drop: float | None = field(
        default=None,
        metadata={
            RULE: Rule(
                "most accuracy that int8 may cost on the validation split, as a share; auto keeps layers float to hold it",
                minimum=0,
                maximum=1,
            )
        },
    )

    CHECKS: ClassVar[tuple[Check, ...]] = (Check(("keep_float", "accuracy_drop"), _accuracy_drop_needs_auto),)


CompressStep: TypeAlias = Prune | PruneBlocks | Factorize | Sparsify | Recalibrate | Recover | Student | Quantize
