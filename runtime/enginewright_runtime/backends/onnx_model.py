"""What an ONNX model declares, read from its bytes without the onnx library: its inputs and outputs, and that it is whole.

Field numbers are those of onnx.proto (onnx/onnx.proto of the ONNX project, stable by its versioning rules), the
encoding is that of Protocol Buffers ("Encoding", protobuf.dev). Weights are stepped over, not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from enginewright_runtime.errors import EngineError
from enginewright_runtime.manifest import TensorSpec

__all__ = ["Declaration", "declaration", "node_names", "refuse_weights_elsewhere"]

_Value: TypeAlias = "int | memoryview"

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_OTHER_TYPES = {8: "text", 14: "complex64", 15: "complex128", 16: "bfloat16"}
_DEEPEST = 33  # graphs within graphs: three messages each, and protobuf reads a hundred
_NEGATIVE = 1 << 63  # from here on, the number stands for a negative one


@dataclass(frozen=True)
class Declaration:
    """The inputs and outputs of a model, in its order.

    A dimension without a size or a name is "?". `shapeless` names the outputs whose shape the model leaves to be
    inferred; theirs is () here.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shapeless: frozenset[str]


def declaration(model: bytes) -> Declaration:
    """Read the declaration of an ONNX model.

    Raises EngineError where the bytes are not one, where an input or output is not a tensor of numbers or an input
    has no shape, and as `refuse_weights_elsewhere` does.
    """
    refuse_weights_elsewhere(model)
    try:
        return _read_graph(_graph(model))
    except (_Malformed, UnicodeDecodeError) as error:
        raise _not_a_model(error) from None


def refuse_weights_elsewhere(model: bytes) -> None:
    """See that an ONNX model holds its weights itself: one that names other files takes in any that its user may read.

    Raises EngineError where it does not, and where the bytes are not an ONNX model.
    """
    try:
        _refuse_other_files(_graph(model))
        for function in _messages(memoryview(model), 25):
            for node in _messages(function, 7):
                _refuse_in_attributes(node, 5)
            _refuse_in_attributes(function, 11)
    except (_Malformed, UnicodeDecodeError) as error:
        raise _not_a_model(error) from None


def node_names(model: bytes) -> list[tuple[str, str]]:
    """The name and the operator of each node of the graph, in order. Raises EngineError where it is not a model."""
    try:
        return [(_text(node, 3), _text(node, 4)) for node in _messages(_graph(model), 1)]
    except (_Malformed, UnicodeDecodeError) as error:
        raise _not_a_model(error) from None


class _Malformed(Exception):
    """The bytes break the encoding."""


def _not_a_model(error: Exception) -> EngineError:
    return EngineError(f"not an ONNX model, or cut short: {error}")


def _graph(model: bytes) -> memoryview:
    graphs = _messages(memoryview(model), 7)
    if len(graphs) != 1:
        raise _Malformed("it has no graph" if not graphs else "it has several graphs")
    return graphs[0]


def _read_graph(graph: memoryview) -> Declaration:
    initialized = {_text(tensor, 8) for tensor in _messages(graph, 5)}
    inputs = [_tensor_spec(value) for value in _messages(graph, 11) if _text(value, 1) not in initialized]
    outputs = [_tensor_spec(value) for value in _messages(graph, 12)]
    for spec, shaped in inputs:
        if not shaped:
            raise EngineError(f"the input {spec.name} of the model has no shape")
    return Declaration(
        tuple(spec for spec, _ in inputs),
        tuple(spec for spec, _ in outputs),
        frozenset(spec.name for spec, shaped in outputs if not shaped),
    )


def _tensor_spec(value_info: memoryview) -> tuple[TensorSpec, bool]:
    """A ValueInfoProto as a TensorSpec, and whether it says its shape."""
    name = _text(value_info, 1)
    tensors = [tensor for type_ in _messages(value_info, 2) for tensor in _messages(type_, 1)]
    if not tensors:
        raise EngineError(f"{name} is not a tensor, and only tensors of numbers are run")
    element = _number(tensors[-1], 1)
    if element not in _DTYPES:
        found = _OTHER_TYPES.get(element, f"ONNX type {element}")
        raise EngineError(f"{name} is a tensor of {found}, and only tensors of numbers are run")
    shapes = _messages(tensors[-1], 2)
    dimensions = _messages(shapes[-1], 1) if shapes else []
    return TensorSpec(name, tuple(map(_dimension, dimensions)), _DTYPES[element]), bool(shapes)


def _dimension(dimension: memoryview) -> int | str:
    size = _number(dimension, 1)
    return size if 0 < size < _NEGATIVE else _text(dimension, 2) or "?"


def _refuse_other_files(graph: memoryview, *, depth: int = 0) -> None:
    """Look at every tensor of a graph and of the graphs in it."""
    if depth > _DEEPEST:
        raise _Malformed(f"graphs within graphs, more than {_DEEPEST} deep")
    for tensor in _messages(graph, 5):
        _refuse_other_file(tensor)
    for sparse in _messages(graph, 15):
        _refuse_in_sparse(sparse)
    for node in _messages(graph, 1):
        _refuse_in_attributes(node, 5, depth=depth)


def _refuse_in_attributes(owner: memoryview, wanted: int, *, depth: int = 0) -> None:
    for attribute in _messages(owner, wanted):
        for tensor in _messages(attribute, 5, 10):
            _refuse_other_file(tensor)
        for sparse in _messages(attribute, 22, 23):
            _refuse_in_sparse(sparse)
        for graph in _messages(attribute, 6, 11):
            _refuse_other_files(graph, depth=depth + 1)


def _refuse_in_sparse(sparse: memoryview) -> None:
    for tensor in _messages(sparse, 1, 2):
        _refuse_other_file(tensor)


def _refuse_other_file(tensor: memoryview) -> None:
    if _number(tensor, 14) == 1 or _messages(tensor, 13):
        raise EngineError(
            f"the weight {_text(tensor, 8)!r} is in another file", hint="save the model with its weights inside"
        )


def _messages(message: memoryview, *wanted: int) -> list[memoryview]:
    """The values of some fields, in order; they must be messages or text."""
    found = [value for number, value in _fields(message) if number in wanted]
    if any(isinstance(value, int) for value in found):
        raise _Malformed("a number where a message belongs")
    return [value for value in found if not isinstance(value, int)]


def _text(message: memoryview, wanted: int) -> str:
    found = _messages(message, wanted)
    return str(found[-1], "utf-8") if found else ""


def _number(message: memoryview, wanted: int) -> int:
    """The value of a field that is a whole number; 0, which is not written, where it is missing."""
    found = [value for number, value in _fields(message) if number == wanted]
    if any(not isinstance(value, int) for value in found):
        raise _Malformed("a message where a number belongs")
    return [value for value in found if isinstance(value, int)][-1] if found else 0


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """The fields of one message: each number with a whole number or with the bytes of its value."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            number, position = _varint(message, position)
            yield key >> 3, number
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _Malformed(f"wire type {kind}")
        if position + size > len(message):
            raise _Malformed(f"{size} bytes announced, {len(message) - position} left")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _Malformed("a number is cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Malformed("a number of more than ten bytes")
