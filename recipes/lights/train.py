"""Train the weights of recipe `lights`; takes about a minute on one processor core.

    python recipes/lights/train.py

The best epoch by balanced accuracy on the validation split, and of equals the one with the least loss there, is kept in
`lights.safetensors` beside this file (or `--output`). The confusion matrix and the balanced accuracy on the test split
are printed at the end.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from data import Lights, Split
from model import LightNet
from numpy.typing import NDArray
from torch import Tensor, nn

from enginewright_runtime.atomic import write_file
from enginewright_runtime.exit_codes import ExitCode

_BATCH = 64
_WEIGHT_DECAY = 0.01
_LABEL_SMOOTHING = 0.05
_WARM_UP_SHARE = 0.1
_SHIFT = 4
_BRIGHTNESS = (0.6, 1.4)
_PROJECT = Path(__file__).parents[2]


class _Score(NamedTuple):
    """How a network does on a split; `confusion[i, j]` counts the images of class i that are called j."""

    confusion: NDArray[np.int64]
    loss: float

    @property
    def balanced_accuracy(self) -> float:
        return float(np.mean(np.diag(self.confusion) / self.confusion.sum(axis=1)))


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        data = Lights(arguments.photographs)
    except FileNotFoundError as error:
        parser.exit(ExitCode.USAGE, f"{error}\n")
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)  # the network is too small for more to pay
    network = LightNet(classes=len(data.classes))
    best = _train(network, data, epochs=arguments.epochs, learning_rate=arguments.learning_rate, seed=arguments.seed)
    network.load_state_dict(best)
    write_file(arguments.output, safetensors.torch.save(best))
    score = _score(network, data.test, classes=len(data.classes))
    for name, row in zip(data.classes, score.confusion, strict=True):
        print(f"{name:>8} called {', '.join(data.classes)}: {' '.join(f'{count:4}' for count in row)}")
    print(f"balanced accuracy {score.balanced_accuracy:.4f} on {len(data.test)} test images; wrote {arguments.output}")


def _parser() -> argparse.ArgumentParser:
    folder = os.environ.get("ENGINEWRIGHT_DATA") or "../shared/data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", default=str(_PROJECT / folder / "traffic-lights/traffic_lights_64x32.npz"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("lights.safetensors"))
    return parser


def _train(network: nn.Module, data: Lights, *, epochs: int, learning_rate: float, seed: int) -> dict[str, Tensor]:
    """Train with AdamW and a cosine schedule; give the weights of the best epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=_WEIGHT_DECAY)
    steps = epochs * math.ceil(len(data.train) / _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    criterion = nn.CrossEntropyLoss(label_smoothing=_LABEL_SMOOTHING)
    generator = np.random.default_rng(seed)
    best_rank, best = (-1.0, 0.0), copy.deepcopy(network.state_dict())
    for epoch in range(1, epochs + 1):
        network.train()
        losses = []
        for images, labels in _batches(data.train, generator.permutation(len(data.train))):
            loss = criterion(network(_augmented(images, generator)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"epoch {epoch}: the loss is {losses[-1]}; lower --learning-rate")
        score = _score(network, data.validation, classes=len(data.classes))
        if (rank := (score.balanced_accuracy, -score.loss)) > best_rank:
            best_rank, best = rank, copy.deepcopy(network.state_dict())
        print(
            f"epoch {epoch}/{epochs}  loss {np.mean(losses):.4f}  "
            f"validation loss {score.loss:.4f}  balanced accuracy {score.balanced_accuracy:.4f}",
            flush=True,
        )
    return {name: tensor.contiguous() for name, tensor in best.items()}


def _rate(progress: float) -> float:
    """Give the learning rate's factor: a linear warm-up, then half a cosine down to zero."""
    if progress < _WARM_UP_SHARE:
        return (progress + 1e-3) / (_WARM_UP_SHARE + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)))


def _score(network: nn.Module, split: Split, *, classes: int) -> _Score:
    network.eval()
    confusion = np.zeros((classes, classes), dtype=np.int64)
    total = 0.0
    with torch.inference_mode():
        for images, labels in _batches(split, np.arange(len(split))):
            logits = network(images)
            total += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            np.add.at(confusion, (labels.numpy(), logits.argmax(1).numpy()), 1)
    return _Score(confusion, total / len(split))


def _batches(split: Split, order: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(order), _BATCH):
        samples = split.__getitems__(order[start : start + _BATCH].tolist())
        images = torch.from_numpy(np.stack([image for image, _ in samples]))
        yield images, torch.tensor([label for _, label in samples])


def _augmented(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Shift each image by up to 4 pixels each way, make it darker or brighter, and mirror every second one.

    Mirrored left to right only: upside down, red would lie where green does. Hue stays, since it is the state itself.
    """
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (_SHIFT,) * 4, mode="replicate")
    corners = generator.integers(0, 2 * _SHIFT + 1, size=(count, 2)).tolist()
    shifted = torch.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, corners, strict=True)]
    )
    mirrored = torch.from_numpy(generator.random(count) < 0.5)
    shifted[mirrored] = shifted[mirrored].flip(-1)
    gains = torch.from_numpy(generator.uniform(*_BRIGHTNESS, size=(count, 1, 1, 1)).astype(np.float32))
    return ((shifted + 1) * gains - 1).clamp(-1, 1)  # black is -1


if __name__ == "__main__":
    main()
