"""LightNet: a small convolutional network for crops of traffic lights."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class LightNet(nn.Module):
    """Tell the state of a traffic light from a 64x32 RGB crop.

    Six 3x3 convolutions, each with batch normalisation and ReLU, of `width`, 2 `width` (twice) and 4 `width` (three
    times) channels; three of them halve the resolution. Global average pooling and the linear layer `head` follow. With
    the default width: 107 thousand parameters and 8.5 million multiply-accumulates an image.

    (batch, 3, 64, 32) float32, as `data.normalise` makes it -> (batch, classes) logits

    >>> import torch
    >>> LightNet(width=8).eval()(torch.zeros(2, 3, 64, 32)).shape
    torch.Size([2, 3])
    """

    def __init__(self, width: int = 16, *, classes: int = 3) -> None:
        super().__init__()
        self.block1 = _block(3, width, stride=2)
        self.block2 = _block(width, 2 * width, stride=1)
        self.block3 = _block(2 * width, 2 * width, stride=2)
        self.block4 = _block(2 * width, 4 * width, stride=1)
        self.block5 = _block(4 * width, 4 * width, stride=2)
        self.block6 = _block(4 * width, 4 * width, stride=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.block2(self.block1(image))
        coarse = self.block6(self.block5(self.block4(self.block3(fine))))
        logits: Tensor = self.head(self.flatten(self.pool(coarse)))
        return logits


def _block(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
        )
    )
