"""Small networks as they reach the builder: made with torch, exported by torch's own exporter and simplified."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

Batches = Callable[..., Iterator[Mapping[str, npt.NDArray[np.float32]]]]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(features)))))
        return torch.relu(residual + self.shortcut(features))


class Residual(nn.Module):
    """A stem, a block that keeps its shape, one that halves it, global average pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.keep = Block(16, 16, 1)
        self.halve = Block(16, 32, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.pool(self.halve(self.keep(self.stem(image)))).flatten(1))


class Decoder(nn.Module):
    """Down by max pooling, up by a transposed convolution, joined by concatenation: half a U-Net. It ends in a
    convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 32, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.join = nn.Conv2d(32, 16, 3, padding=1)
        self.mask = nn.Conv2d(16, 16, 1)

    def forward(self, image: Tensor) -> Tensor:
        high = torch.relu(self.down(image))
        low = torch.relu(self.deep(torch.max_pool2d(high, 2)))
        return self.mask(torch.relu(self.join(torch.cat([high, torch.relu(self.up(low))], 1))))


class Tokens(nn.Module):
    """Linear layers on (batch, 16, 32): exported as MatMul and Add."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


def _export(network: nn.Module, name: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    import onnxsim

    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, *shape))  # so that batch normalisation has seen something
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            input_names=[name],
            output_names=["result"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    simplified, _ = onnxsim.simplify(program.model_proto)
    return simplified


@pytest.fixture(scope="session")
def residual() -> onnx.ModelProto:
    torch.manual_seed(1)
    return _export(Residual(), "image", (3, 32, 32))


@pytest.fixture(scope="session")
def decoder() -> onnx.ModelProto:
    torch.manual_seed(2)
    return _export(Decoder(), "image", (3, 16, 16))


@pytest.fixture(scope="session")
def tokens() -> onnx.ModelProto:
    torch.manual_seed(3)
    return _export(Tokens(), "tokens", (16, 32))


@pytest.fixture(scope="session")
def batches() -> Batches:
    """`batches(model, samples=64, seed=0)`: standard normal inputs in batches of eight."""

    def make(
        model: onnx.ModelProto, *, samples: int = 64, seed: int = 0, size: int = 8
    ) -> Iterator[Mapping[str, npt.NDArray[np.float32]]]:
        constants = {tensor.name for tensor in model.graph.initializer}
        value = next(value for value in model.graph.input if value.name not in constants)
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim][1:]
        random = np.random.default_rng(seed)
        for _ in range(samples // size):
            yield {value.name: random.standard_normal((size, *shape)).astype(np.float32)}

    return make
