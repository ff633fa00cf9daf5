"""Train the weights of recipe `signs`.

    python recipes/signs/train.py --epochs 12

The best epoch by accuracy on the validation split is kept in `signs.safetensors` beside this file (or `--output`), and
the accuracy on the test split is printed at the end. `--root` trains on a folder of images by class; the number of
classes is then `--classes`, and the recipe's `model.arguments.classes` and `data.arguments.class_count` have to say so.

The convolutions compute in bfloat16 where the processor has instructions for it, else in float32. Beside other busy
processes `--threads 1` is several times as fast as two threads, which wait for each other at every layer.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from data import Signs, Split
from model import SignNet
from torch import Tensor, nn

from enginewright.errors import DataError
from enginewright_runtime.atomic import write_file
from enginewright_runtime.exit_codes import ExitCode

_BATCH = 64
_WEIGHT_DECAY = 0.05
_LABEL_SMOOTHING = 0.05
_WARM_UP_SHARE = 0.1
_SHIFT = 3


def main() -> None:
    parser = _parser()
    try:
        _run(parser.parse_args())
    except DataError as error:
        parser.exit(ExitCode.USAGE, f"{error}\n")


def _run(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    data = Signs(root=arguments.root, class_count=arguments.classes, train=arguments.classes * arguments.images)
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if len(split) == 0:
            raise DataError(f"the split '{name}' of {arguments.root} is empty", hint="add images: too few were found")
    network = SignNet(classes=len(data.classes))
    # torch.nn.Module.to takes it, and its types do not say so.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    best = _train(network, data, epochs=arguments.epochs, learning_rate=arguments.learning_rate, seed=arguments.seed)
    network.load_state_dict(best)
    write_file(arguments.output, safetensors.torch.save(best))
    print(f"test accuracy {_accuracy(network, data.test):.4f} on {len(data.test)} images; wrote {arguments.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=600, help="rendered images a class (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--root", default="", help="a folder of images by class, instead of rendered ones")
    parser.add_argument("--classes", type=int, default=43, help="class folders in --root (default %(default)s)")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("signs.safetensors"))
    return parser


def _train(network: nn.Module, data: Signs, *, epochs: int, learning_rate: float, seed: int) -> dict[str, Tensor]:
    """Train with AdamW and a cosine schedule; give the weights of the best epoch."""
    # In the few epochs that a processor has time for, SGD with momentum stays far behind.
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=_WEIGHT_DECAY)
    steps = epochs * math.ceil(len(data.train) / _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    criterion = nn.CrossEntropyLoss(label_smoothing=_LABEL_SMOOTHING)
    shuffle = np.random.default_rng(seed)
    best_accuracy, best = -1.0, copy.deepcopy(network.state_dict())
    for epoch in range(1, epochs + 1):
        started = time.monotonic()
        network.train()
        losses = []
        for images, labels in _batches(data.train, shuffle.permutation(len(data.train))):
            with _autocast():
                loss = criterion(network(_shifted(images, shuffle)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"epoch {epoch}: the loss is {losses[-1]}; lower --learning-rate")
        accuracy = _accuracy(network, data.validation)
        if accuracy >= best_accuracy:
            best_accuracy, best = accuracy, copy.deepcopy(network.state_dict())
        print(
            f"epoch {epoch}/{epochs}  loss {np.mean(losses):.4f}  validation accuracy {accuracy:.4f}  "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    return {name: tensor.contiguous() for name, tensor in best.items()}


def _rate(progress: float) -> float:
    """Give the learning rate's factor: a linear warm-up, then half a cosine down to zero."""
    if progress < _WARM_UP_SHARE:
        return (progress + 1e-3) / (_WARM_UP_SHARE + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)))


def _accuracy(network: nn.Module, split: Split) -> float:
    """Give the share of right answers, in float32: the reference that a build compares with."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in _batches(split, np.arange(len(split))):
            right += int((network(images).argmax(1) == labels).sum())
    return right / len(split)


def _batches(split: Split, order: np.typing.NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(order), _BATCH):
        samples = split.__getitems__(order[start : start + _BATCH].tolist())
        images = torch.from_numpy(np.stack([image for image, _ in samples]))
        yield images.contiguous(memory_format=torch.channels_last), torch.tensor([label for _, label in samples])


def _shifted(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Move a batch by up to 3 pixels each way: the one augmentation, since the renderer varies everything else."""
    down, right = (int(v) for v in generator.integers(0, 2 * _SHIFT + 1, size=2))
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (_SHIFT,) * 4, mode="replicate")
    return padded[:, :, down : down + height, right : right + width]


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16())


def _has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


if __name__ == "__main__":
    main()
