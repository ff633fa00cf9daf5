"""How each backend wants its int8 network written: types of integers, bias, weights, and where the Q/DQ pairs stand.

Plain data: importing this module imports neither onnx nor numpy, because planning needs the name of a dialect and
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["DIALECTS", "Dialect", "backend_dialect", "onnxruntime_dialect"]

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_ARM = frozenset({"aarch64", "arm64"})
_TENSORRT = frozenset({"tensorrt", "tensorrt_rtx"})


@dataclass(frozen=True)
class Dialect:
    """One backend's rules for a network with Q/DQ nodes.

    `activation`, `symmetric`: the integers of activations; symmetric means zero point 0 and a range of -amax to amax.
    `weight_limit`: weights lie within -weight_limit to weight_limit, one scale an output channel, zero point 0.
    `weights_as`: how a weight is stored, as int8 behind DequantizeLinear or as float32 behind QuantizeLinear and
    DequantizeLinear.
    `bias`: int32 behind DequantizeLinear with scale input x weight, or left in float32.
    `placement`: `around` gives every quantized operator integer inputs and an integer output; `inputs` quantizes what
    enters a convolution or matrix product and lets the backend fuse what follows.
    `weighted`: the operators with weights that have an integer kernel.
    `minimum_channels`: a convolution with fewer input or output channels stays float. `minimum_rows`: a product with
    fewer rows does.
    `disabled_optimizers`, `session_config`: the settings of ONNX Runtime without which it computes something else than
    the graph says; of a TensorRT graph, those under which ONNX Runtime is its twin.
    """

    name: str
    activation: Literal["uint8", "int8"]
    symmetric: bool
    weight_limit: int
    weights_as: Literal["int8", "float32"]
    bias: Literal["int32", "float32"]
    placement: Literal["around", "inputs"]
    weighted: frozenset[str]
    minimum_channels: int = 1
    minimum_rows: int = 1
    disabled_optimizers: tuple[str, ...] = ()
    session_config: Mapping[str, str] = field(default_factory=dict)

    @property
    def activation_limits(self) -> tuple[int, int]:
        """The lowest and the highest integer that an activation takes.

        >>> DIALECTS["tensorrt"].activation_limits
        (-128, 127)
        """
        return (0, 255) if self.activation == "uint8" else (-128, 127)


_EVERY_PRODUCT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ONNXRUNTIME = _EVERY_PRODUCT - {"ConvTranspose"}  # the CPU provider has no integer kernel for it
# It gives int8 weights of its own, with 8 bits and one scale a tensor, to every float Conv, ConvTranspose and Gemm
# between two quantized tensors: layers that were kept in float on purpose would lose accuracy, or saturate, without a
# word.
_QUANTIZES_FLOAT_LAYERS = ("WeightBiasQuantization",)

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "onnxruntime-x86-vnni",
            activation="uint8",
            symmetric=False,
            weight_limit=127,
            weights_as="int8",
            bias="int32",
            placement="around",
            weighted=_ONNXRUNTIME,
            disabled_optimizers=_QUANTIZES_FLOAT_LAYERS,
        ),
        # Without VNNI the kernels add two 16-bit products of uint8 and int8 before they widen: 2 x 255 x 64 still
        # fits, 2 x 255 x 127 saturates.
        Dialect(
            "onnxruntime-x86",
            activation="uint8",
            symmetric=False,
            weight_limit=64,
            weights_as="int8",
            bias="int32",
            placement="around",
            weighted=_ONNXRUNTIME,
            disabled_optimizers=_QUANTIZES_FLOAT_LAYERS,
        ),
        # ONNX Runtime's kernels for 64-bit ARM accumulate int8 x int8 in 32 bits (SDOT, SMMLA, and NEON before them),
        # so nothing saturates; the symmetric and the depthwise convolutions are written for signed activations
        # (onnxruntime pull requests 9655, 9772 and 9902). On x86 signed activations are not fused at all.
        Dialect(
            "onnxruntime-arm",
            activation="int8",
            symmetric=False,
            weight_limit=127,
            weights_as="int8",
            bias="int32",
            placement="around",
            weighted=_ONNXRUNTIME,
            disabled_optimizers=_QUANTIZES_FLOAT_LAYERS,
        ),
        # OpenVINO's CPU plugin carries pairs to where they are used, so a convolution is fused with what follows it
        # whether or not it gives integers. Pairs where integers enter a product are as quick as pairs around every
        # operator, whether a residual sum has them on one branch, on both or on none, and they round less often.
        # uint8, because signed activations with a zero point make every convolution float where there is AMX;
        # symmetric ones lose a bit behind every rectifier, are slower without AMX, and give wrong transposed
        # convolutions on AVX2. A bias in float32 costs nothing and is exact.
        Dialect(
            "openvino-x86-vnni",
            activation="uint8",
            symmetric=False,
            weight_limit=127,
            weights_as="int8",
            bias="float32",
            placement="inputs",
            weighted=_EVERY_PRODUCT,
        ),
        # Without VNNI its kernels add two 16-bit products as ONNX Runtime's do, and saturate with weights of 8 bits.
        Dialect(
            "openvino-x86",
            activation="uint8",
            symmetric=False,
            weight_limit=64,
            weights_as="int8",
            bias="float32",
            placement="inputs",
            weighted=_EVERY_PRODUCT,
        ),
        # The parsers of TensorRT 8 want weights in float32 before their QuantizeLinear, and every later one takes
        # them: one graph serves all.
        Dialect(
            "tensorrt",
            activation="int8",
            symmetric=True,
            weight_limit=127,
            weights_as="float32",
            bias="float32",
            placement="inputs",
            weighted=_EVERY_PRODUCT,
            minimum_channels=16,
            minimum_rows=2,
            # No integer kernels for its twin: on x86 some saturate where no GPU does.
            session_config={"session.disable_quant_qdq": "1"},
        ),
    )
}


def onnxruntime_dialect(machine: str, instruction_sets: Sequence[str]) -> str:
    """The name of the dialect that ONNX Runtime's CPU provider wants on a machine with these instruction sets.

    An unknown machine gets the x86 dialect without VNNI: 7-bit weights saturate nowhere.

    >>> onnxruntime_dialect("x86_64", ["avx2", "avx512_vnni"])
    'onnxruntime-x86-vnni'
    >>> onnxruntime_dialect("x86_64", ["avx2"])
    'onnxruntime-x86'
    >>> onnxruntime_dialect("aarch64", [])
    'onnxruntime-arm'
    """
    if machine.lower() in _ARM:
        return "onnxruntime-arm"
    return "onnxruntime-x86-vnni" if _VNNI.intersection(instruction_sets) else "onnxruntime-x86"


def backend_dialect(backend: str, machine: str, instruction_sets: Sequence[str]) -> str:
    """The name of the dialect that `backend` wants on that machine. Raises ValueError for a backend that has none.

    >>> backend_dialect("tensorrt_rtx", "x86_64", ["avx2"])
    'tensorrt'
    >>> backend_dialect("openvino", "x86_64", ["avx2"])
    'openvino-x86'
    """
    if backend in _TENSORRT:
        return "tensorrt"
    if backend == "onnxruntime":
        return onnxruntime_dialect(machine, instruction_sets)
    if backend == "openvino":  # on an unknown machine, 7-bit weights saturate nowhere
        return "openvino-x86-vnni" if _VNNI.intersection(instruction_sets) else "openvino-x86"
    raise ValueError(f"no Q/DQ dialect is known for the backend '{backend}'")
