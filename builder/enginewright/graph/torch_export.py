"""A torch network becomes an ONNX one, and the two are compared numerically.

torch's exporter (torch.export) traces the network with a batch of two, so that a batch size baked in by mistake shows;
the exported network then runs on batches of one, two and three and must agree with torch within PARITY of the outputs'
size.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from enginewright.errors import DataError
from enginewright.networks import checked_outputs, to_tensors
from enginewright.signature import Signature, largest_difference

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OPSET", "PARITY", "check_parity", "export_network"]

OPSET = 18  # the lowest that torch's exporter writes without converting
PARITY = 1e-4  # largest difference of an output, as a share of that output's largest magnitude


def export_network(network: nn.Module, signature: Signature, path: Path) -> None:
    """Write `network` as ONNX to `path`. Raises DataError where torch cannot export it."""
    import torch

    free = {size for spec in signature.inputs.values() for size in spec.shape if isinstance(size, str)}
    symbols = {name: torch.export.Dim(name) for name in sorted(free)}
    dynamic = tuple(
        {axis: symbols[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in signature.inputs.values()
    )
    example = to_tensors(signature.example(batch=2))
    said = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every optional library that is not there
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                tuple(example.values()),
                input_names=list(example),
                output_names=list(signature.outputs),
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except Exception as error:
        last = str(error).strip().splitlines()
        raise DataError(
            f"torch cannot export the network: {type(error).__name__}: {last[0] if last else ''}",
            hint="the forward must not branch on the values or sizes of tensors; try torch.export.export(model, inputs) on its own",
        ) from error
    assert (
        program is not None
    )  # the old exporter writes a file and returns nothing; the one used here returns a program
    exported = program.model_proto
    _name_after_modules(exported)
    _forget_the_source(exported)
    onnx.save(exported, path)


def _name_after_modules(network: onnx.ModelProto) -> None:
    """Nodes with weights get the path of their torch module as their name: people know it, and `keep_float` can say it."""
    weights = {tensor.name for tensor in network.graph.initializer if tensor.name.endswith(".weight")}
    taken: set[str] = set()
    for node in network.graph.node:
        module = next((name.removesuffix(".weight") for name in node.input if name in weights), "")
        if module and module not in taken:  # a module that is called twice names its first node only
            node.name = module
            taken.add(module)


def _forget_the_source(network: onnx.ModelProto) -> None:
    """The exporter notes the stack of every node: paths of this computer, and line numbers that change with a comment."""
    for owner in (network, network.graph, *network.graph.node, *network.graph.value_info):
        del owner.metadata_props[:]
        owner.doc_string = ""


def check_parity(network: nn.Module, signature: Signature, path: Path) -> float:
    """The largest difference to torch, as a share of the output's largest magnitude. Raises DataError above PARITY."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in sorted({signature.batch_size(batch) for batch in (1, 2, 3)}):
        inputs = signature.example(batch=batch, seed=batch)
        expected = checked_outputs(network, inputs, signature)
        try:
            actual = dict(zip(signature.outputs, session.run(list(signature.outputs), inputs), strict=True))
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise DataError(
                f"the exported network does not run on a batch of {batch}: {error}",
                hint="does the forward take the batch size as a number?",
            ) from error
        for name in signature.outputs:
            difference = largest_difference(actual[name], expected[name])
            worst = max(worst, difference)
            if not difference <= PARITY:
                raise DataError(
                    f"the exported network differs from torch: output '{name}' by {difference:.2g} of its size, more than {PARITY:g}",
                    hint="does the forward use random numbers, or depend on the batch size?",
                )
    return worst
