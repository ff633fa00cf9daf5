"""An ONNX model into TensorRT's network, and the shapes that its engine is built for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginewright_runtime.backends.onnx_model import declaration, node_names
from enginewright_runtime.errors import EngineError
from enginewright_runtime.manifest import TensorSpec
from enginewright_runtime.tensorrt.library import Library
from enginewright_runtime.tensorrt.log import Log, failure, hint_for
from enginewright_runtime.tensorrt.settings import Sizes

__all__ = ["parse_network", "profile_of", "ranges"]

Shape = tuple[int, ...]


def parse_network(library: Library, builder: Any, log: Log, model: bytes, *, for_dla: bool = False) -> Any:
    """The network of an ONNX model. Raises EngineError with every fault that the parser found, and its node.

    `for_dla`: where the version can, the parser makes of it what a DLA takes, Q/DQ pairs included (from 11.4.1 on).
    """
    trt = library.trt
    flags = 0
    # Up to 10.x a batch must be asked to be explicit; where flags of the builder no longer allow float16 and int8, the
    # network's own types decide.
    wanted = ["EXPLICIT_BATCH"] if library.typed_by_flags else ["STRONGLY_TYPED"]
    for name in wanted:
        if hasattr(trt.NetworkDefinitionCreationFlag, name):
            flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
    network = builder.create_network(flags)
    if network is None:
        raise failure(library, log, "could not create a network")
    parser = trt.OnnxParser(network, log.logger)
    adjust = getattr(getattr(trt, "OnnxParserFlag", None), "ADJUST_FOR_DLA", None)
    if for_dla and adjust is not None:
        parser.set_flag(adjust)
    if not parser.parse(model):
        faults = [_fault(parser.get_error(index), model) for index in range(parser.num_errors)]
        if not faults:
            raise failure(library, log, "could not parse the model")
        listed = "\n".join(f"  {fault}" for fault in dict.fromkeys(faults))
        raise EngineError(
            f"{library.kind.title} {library.version} could not parse the model:\n{listed}",
            hint=hint_for(listed, "", log.known) or "write these nodes with other operators",
        )
    return network


def _fault(error: Any, model: bytes) -> str:
    """One of the parser's errors in a line: the node and its operator, and what is wrong."""
    index = int(error.node())
    name = operator = ""
    if hasattr(error, "node_name"):
        name, operator = str(error.node_name()), str(error.node_operator())
    elif index >= 0:
        nodes = node_names(model)
        name, operator = nodes[index] if index < len(nodes) else ("", "")
    where = f"{name or f'node {index}'}{f' ({operator})' if operator else ''}: " if name or index >= 0 else ""
    return where + " ".join(str(error.desc()).split())


def ranges(inputs: tuple[TensorSpec, ...], sizes: Mapping[str, Sizes]) -> dict[str, tuple[Shape, Shape, Shape]]:
    """The smallest, the usual and the largest shape of each input.

    Raises EngineError where an input has a free dimension whose sizes are not known.

    >>> ranges((TensorSpec("image", ("batch", 3), "float32"),), {"batch": Sizes(1, 1, 8)})
    {'image': ((1, 3), (1, 3), (8, 3))}
    """
    found = {}
    for spec in inputs:
        each = []
        for size in spec.shape:
            if isinstance(size, int):
                each.append(Sizes(size, size, size))
            elif size in sizes:
                each.append(sizes[size])
            else:
                raise EngineError(
                    f"the dimension {size!r} of the input {spec.name!r} is free, and nothing says which sizes it may have",
                    hint="give it a size in the recipe's model.inputs",
                )
        found[spec.name] = (
            tuple(one.least for one in each),
            tuple(one.usual for one in each),
            tuple(one.most for one in each),
        )
    return found


def profile_of(builder: Any, model: bytes, sizes: Mapping[str, Sizes]) -> Any | None:
    """The optimization profile for the model's inputs; None where no dimension is free."""
    inputs = declaration(model).inputs
    if all(isinstance(size, int) for spec in inputs for size in spec.shape):
        return None
    profile = builder.create_optimization_profile()
    for name, shapes in ranges(inputs, sizes).items():
        profile.set_shape(name, *shapes)
    return profile
