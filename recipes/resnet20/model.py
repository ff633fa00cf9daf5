"""ResNet-20 for CIFAR-10, built so that the published weights of Yerlan Idelbayev's pytorch_resnet_cifar10 fit it."""

from __future__ import annotations

from torch import Tensor, nn


class _Shortcut(nn.Module):
    """Every second row and column, with zero channels in front and behind: the shortcut without weights.

    This is option A of He et al., "Deep Residual Learning" (arXiv 1512.03385), section 3.3.

    (batch, inputs, height, width) -> (batch, outputs, height / 2, width / 2)
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        front = (outputs - inputs) // 2
        self._padding = (0, 0, 0, 0, front, outputs - inputs - front)

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.pad(features[:, :, ::2, ::2], self._padding)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    (batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride)
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else _Shortcut(inputs, outputs)
        self.relu2 = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(features)))))
        result: Tensor = self.relu2(residual + self.shortcut(features))
        return result


class ResNet20(nn.Module):
    """Classify 32x32 RGB images: a convolution, three stages of three blocks, global average, `linear`.

    269,722 parameters. The names of modules are those of the published state dict.

    (batch, 3, 32, 32) float32, as `data.normalise` makes it -> (batch, 10) logits

    >>> import torch
    >>> ResNet20().eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, stride=1)
        self.layer2 = _stage(16, 32, stride=2)
        self.layer3 = _stage(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(image))))))
        logits: Tensor = self.linear(self.flatten(self.pool(features)))
        return logits


def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    first = _Block(inputs, outputs, stride=stride)
    return nn.Sequential(first, *(_Block(outputs, outputs, stride=1) for _ in range(2)))
