"""What an interrupted training needs to go on from its last finished epoch: tensors as safetensors, the rest as JSON.

    progress.json            the curve, the best epoch so far, and which file holds the tensors, with its digest
    epoch-<n>.safetensors    weights, moving average, the optimizer's moments, and the best weights so far

The tensors are whole on disk before progress.json names them, and it takes its name in one step: an interruption at any
moment leaves the state of one epoch or the other. Random numbers need not be kept, because every epoch begins them anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginewright_runtime.atomic import write_file
from enginewright_runtime.canonical import sha256_hex

if TYPE_CHECKING:
    import torch

__all__ = ["Point", "Progress", "Unfinished", "part_of"]

_FORMAT = 1  # of progress.json. 1: first.
_PROGRESS = "progress.json"


@dataclass(frozen=True)
class Point:
    """One epoch of the curve; 0 is before the first, and has no loss."""

    epoch: int
    loss: float | None
    validation: float


@dataclass(frozen=True)
class Progress:
    """Where a training stands. `kept` holds the tensors of the best epoch so far, `trainer` what the trainer needs to go
    on.
    """

    curve: tuple[Point, ...] = ()
    best: float = 0.0
    best_epoch: int = 0
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)
    trainer: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return max(0, len(self.curve) - 1)


class Unfinished:
    """The folder of one interrupted training. `training` says which one it is: a digest of what it starts from."""

    def __init__(self, folder: Path, training: str) -> None:
        self._folder, self._training = folder, training

    def save(self, progress: Progress) -> None:
        from safetensors.torch import save

        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = save(
            {
                f"{part}/{name}": value.detach().cpu().contiguous()
                for part, held in (("kept", progress.kept), ("trainer", progress.trainer))
                for name, value in held.items()
            }
        )
        file = f"epoch-{progress.epoch}.safetensors"
        write_file(self._folder / file, tensors)
        content = {
            "format": _FORMAT,
            "training": self._training,
            "curve": [asdict(point) for point in progress.curve],
            "best": progress.best,
            "best_epoch": progress.best_epoch,
            "tensors": {"file": file, "sha256": sha256_hex(tensors)},
        }
        write_file(self._folder / _PROGRESS, json.dumps(content).encode())
        for path in self._folder.iterdir():  # of earlier epochs, and writes that were killed
            if path.name not in (file, _PROGRESS):
                path.unlink()

    def load(self, *, warn: Callable[[str], None]) -> Progress | None:
        """Where to go on, or None to begin. What cannot be used is ignored, and `warn` is told why."""
        if not (self._folder / _PROGRESS).exists():
            return None  # nothing was interrupted, or before the first epoch was whole
        try:
            return self._read()
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = str(error) if isinstance(error, _Unusable) else f"it is damaged ({type(error).__name__}: {error})"
            warn(f"what an interrupted attempt left cannot be used, and training begins anew: {why}")
            return None

    def _read(self) -> Progress:
        from safetensors.torch import load

        content: dict[str, Any] = json.loads((self._folder / _PROGRESS).read_bytes())
        if content["format"] != _FORMAT:
            raise _Unusable(f"it has format {content['format']}, and this version reads {_FORMAT}")
        if content["training"] != self._training:
            raise _Unusable("it is of another training")
        data = (self._folder / content["tensors"]["file"]).read_bytes()
        if sha256_hex(data) != content["tensors"]["sha256"]:
            raise _Unusable("it is damaged (its tensors do not have the digest that was noted)")
        tensors = load(data)
        return Progress(
            tuple(Point(**point) for point in content["curve"]),
            content["best"],
            content["best_epoch"],
            part_of(tensors, "kept"),
            part_of(tensors, "trainer"),
        )


def part_of(tensors: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `part` and a slash, without them."""
    return {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}


class _Unusable(ValueError):
    pass
