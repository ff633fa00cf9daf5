"""Recalibrate: the statistics of batch normalization are taken anew from training samples.

Pruned layers give other means and variances than those that their normalization learned; with new ones, a pruned
network is often half recovered before any training (Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural
Network Pruning", ECCV 2020). The samples pass once in batches of nearly the same size, each normalized by its own
statistics as in training, and the mean of these is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.datasets import load_data, load_split
from enginewright.errors import DataError
from enginewright.networks import checked_outputs, outputs_of, to_tensors
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature
from enginewright.training_samples import spread

if TYPE_CHECKING:
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["run"]

_BATCH = 64


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    signature = Signature.from_json(parameters["model"])
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    network = make_network(parameters["model"], step.code_folder, state, architecture)
    norms = _with_statistics(network)
    samples = 0
    if norms:
        with _taking_statistics(norms):
            samples = _pass(network, signature, step)
        checked_outputs(network, signature.example(batch=2), signature)
    else:
        step.warn("the network has no batch normalization with statistics: there was nothing to recalibrate")
    save_checkpoint(step.output("checkpoint"), network.state_dict(), architecture)
    return Outcome({"batch_norms": len(norms), "samples": samples})


def _with_statistics(network: nn.Module) -> list[_BatchNorm]:
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.track_running_stats]


@contextmanager
def _taking_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """In the block, every batch adds to the mean of new statistics. A norm that saw none keeps its old ones."""
    before = [{name: value.clone() for name, value in norm.named_buffers(recurse=False)} for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    yield
    for norm, buffers in zip(norms, before, strict=True):
        norm.eval()
        if not norm.num_batches_tracked:
            for name, value in norm.named_buffers(recurse=False):
                value.copy_(buffers[name])


def _pass(network: nn.Module, signature: Signature, step: RunningStep) -> int:
    """Run the network over its samples. Returns how many there were."""
    import torch

    split = load_split(load_data(step), "train", step)
    order = spread(split, step.parameters["samples"])
    if len(order) < 2:
        raise DataError("recalibrate needs two training samples or more: one has no variance", hint="give more data")
    # A batch counts as one whatever its size, so none must be much smaller than the others.
    parts = np.array_split(order, -(-len(order) // _BATCH))
    with torch.no_grad():
        for part in step.tracked(parts, total=len(parts), note="statistics"):
            for batch in split.batches(len(part), order=part.tolist()):
                outputs_of(network, to_tensors(batch.inputs), signature)
    return len(order)
