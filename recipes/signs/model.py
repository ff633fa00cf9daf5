"""SignNet: a small residual network for 64x64 crops of traffic signs."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, as in He et al., "Deep Residual Learning" (arXiv 1512.03385), figure 2.

    The shortcut is a 1x1 convolution where the shape changes and `nn.Identity` elsewhere, so that the forward pass has
    no branch and a pruner finds every channel dependency in the modules alone.

    (batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride)
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                    norm=nn.BatchNorm2d(outputs),
                )
            )
        self.relu2 = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(features)))))
        result: Tensor = self.relu2(residual + self.shortcut(features))
        return result


class SignNet(nn.Module):
    """Classify 64x64 RGB images of traffic signs.

    A stem that halves the resolution, three stages of 2, 3 and 3 blocks with `width`, 2 `width` and 4 `width` channels,
    global average pooling and the linear layer `head`. With the default width: 1.07 million parameters and 143 million
    multiply-accumulates an image.

    (batch, 3, 64, 64) float32, as `data.normalise` makes it -> (batch, classes) logits

    >>> import torch
    >>> SignNet(width=8).eval()(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 43])
    """

    def __init__(self, width: int = 32, *, classes: int = 43) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
                norm=nn.BatchNorm2d(width),
                relu=nn.ReLU(),
            )
        )
        self.stage1 = _stage(width, width, blocks=2, stride=1)
        self.stage2 = _stage(width, 2 * width, blocks=3, stride=2)
        self.stage3 = _stage(2 * width, 4 * width, blocks=3, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4 * width, classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block):
                # Each block starts as its shortcut, so that the untrained network is shallow (arXiv 1706.02677, 5.1).
                nn.init.zeros_(module.norm2.weight)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(self.stem(image))))
        logits: Tensor = self.head(self.flatten(self.pool(features)))
        return logits


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride=stride)
    return nn.Sequential(first, *(Block(outputs, outputs, stride=1) for _ in range(blocks - 1)))
