"""Trains tiny.safetensors in seconds: `python tests/tiny/train.py`, from the repository's root."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

FOLDER = Path(__file__).parent / "recipes" / "tiny"
sys.path.insert(0, str(FOLDER))

from data import Bars  # type: ignore[import-not-found]  # noqa: E402  (the recipe's own modules)
from model import TinyNet  # type: ignore[import-not-found]  # noqa: E402


def main() -> None:
    torch.manual_seed(0)
    network, data = TinyNet(), Bars(noise=0.5)
    images = torch.from_numpy(np.stack([image for image, _ in (data.train[i] for i in range(256))]))
    labels = torch.tensor([i % 4 for i in range(256)])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(30):
        for part in torch.randperm(256).split(32):
            loss = cross_entropy(network(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    test = torch.from_numpy(np.stack([data.test[i][0] for i in range(128)]))
    right = (network(test).argmax(1) == torch.arange(128) % 4).float().mean()
    print(f"test accuracy {float(right):.3f}")
    save_file(network.state_dict(), FOLDER / "tiny.safetensors")


if __name__ == "__main__":
    main()
