"""What a training step was asked for, read once from its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginewright.graph.dialects import DIALECTS, Dialect

__all__ = ["Distilling", "Settings"]


@dataclass(frozen=True)
class Distilling:
    """`weight` is the share of the loss that asks for the teacher's softened scores, the labels have the rest;
    `features` are the modules whose attention maps are asked for beside it, by `feature_weight`.
    """

    temperature: float
    weight: float
    features: tuple[str, ...]
    feature_weight: float


@dataclass(frozen=True)
class Settings:
    """`dialect` is that of the int8 arithmetic to simulate, None for training in float."""

    epochs: int
    learning_rate: float
    batch_size: int
    weight_decay: float
    ema: float
    seed: int
    precision: str
    distill: Distilling | None
    dialect: Dialect | None

    @classmethod
    def from_json(cls, parameters: Mapping[str, Any]) -> Settings:
        distill = parameters["distill"]
        return cls(
            epochs=parameters["epochs"],
            learning_rate=parameters["learning_rate"],
            batch_size=parameters["batch_size"],
            weight_decay=parameters["weight_decay"],
            ema=parameters["ema"],
            seed=parameters["seed"],
            precision=parameters["precision"],
            distill=distill and Distilling(**{**distill, "features": tuple(distill["features"])}),
            dialect=DIALECTS[parameters["dialect"]] if parameters["quantized"] else None,
        )
