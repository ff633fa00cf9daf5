"""PlainNet: what SignNet is distilled into where speed counts most."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class PlainNet(nn.Module):
    """Classify 64x64 RGB images of traffic signs with one convolution after the other.

    Six 3x3 convolutions, three of which halve the resolution, global average pooling and the linear layer `head`. There
    is no shortcut on purpose: in int8 each sum of two branches costs as much as a small convolution, and layers rather
    than multiply-accumulates are what a small network spends its time on (docs/compression.md).

    (batch, 3, 64, 64) float32, as `data.normalise` makes it -> (batch, classes) logits

    >>> import torch
    >>> PlainNet(width=8).eval()(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 43])
    """

    def __init__(self, width: int = 16, *, classes: int = 43) -> None:
        super().__init__()
        self.stem = _layer(3, width, stride=2)
        self.stage1 = nn.Sequential(_layer(width, 2 * width, stride=2), _layer(2 * width, 2 * width, stride=1))
        self.stage2 = nn.Sequential(
            _layer(2 * width, 4 * width, stride=2),
            _layer(4 * width, 4 * width, stride=1),
            _layer(4 * width, 4 * width, stride=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.flatten(self.pool(self.stage2(self.stage1(self.stem(image))))))
        return logits


def _layer(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
        )
    )
