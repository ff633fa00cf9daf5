"""Prune blocks: whole residual blocks leave the network, those first that cost the least loss for the time they take.

Past a point a convolution takes its time whatever its channels, and layers are what is left to remove. What a block is
worth is the rise of the loss on training samples while it is bypassed (Veit et al., "Residual Networks Behave Like
Ensembles of Relatively Shallow Networks", NIPS 2016), measured for each block alone, and again after every removal.
What it costs is measured too, on the target's backend: the network and its variants without one block are compiled and
timed side by side on a real sample.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginewright.checkpoint import load_checkpoint, make_network, save_checkpoint
from enginewright.datasets import Batch, Split, load_data, load_split
from enginewright.edits import RemovedBlocks
from enginewright.errors import DataError, UserCodeError, listed
from enginewright.graph.torch_export import export_network
from enginewright.hosts import refuse_another_host
from enginewright.networks import checked_outputs, count_macs
from enginewright.pruning.blocks import Block, bypassed, find_blocks, without_kept
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature
from enginewright.stopwatch import Saving, saving, time_side_by_side
from enginewright.training_samples import spread, summed_loss
from enginewright_runtime.backends import backend
from enginewright_runtime.stats import percentile

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FORMAT", "run"]

FORMAT = 1  # of the artifact `blocks`. 1: the first.

_BATCH = 64
_ROUNDS = 40
_TYPICAL = 25  # the percentile that stands for a latency: what else runs on the computer only adds to one
_VARIANTS_AT_ONCE = 7  # more would push each other out of the caches, and large networks out of memory


def run(step: RunningStep) -> Outcome:
    parameters = step.parameters
    refuse_another_host(parameters["host"], parameters["backend"])
    signature = Signature.from_json(parameters["model"])
    state, architecture = load_checkpoint(step.inputs["checkpoint"])
    network = make_network(parameters["model"], step.code_folder, state, architecture)
    macs = count_macs(network, signature)
    removal = _Removal(network, signature, step)
    removal.run()
    checked_outputs(network, signature.example(batch=2), signature)
    table = removal.table()
    step.output("blocks").write_text(json.dumps(table))
    edited = (*architecture, RemovedBlocks(tuple(removal.removed))) if removal.removed else architecture
    save_checkpoint(step.output("checkpoint"), network.state_dict(), edited)
    figures = {key: table[key] for key in ("loss_before", "loss_after", "latency_before_ns", "latency_after_ns")}
    return Outcome({"removed": removal.removed, **figures, "macs_before": macs, "macs": count_macs(network, signature)})


class _Removal:
    """Removes blocks from `network`, in place, until the step has what it asks for."""

    def __init__(self, network: nn.Module, signature: Signature, step: RunningStep) -> None:
        self.network, self.step = network, step
        self.blocks = _candidates(network, signature, step)
        split = load_split(load_data(step), "train", step)
        self.loss, self.clock = _Loss(network, split, step), _Clock(network, split, step)
        self.removed: list[str] = []

    def run(self) -> None:
        names = [block.name for block in self.blocks]
        losses = self.losses = self.loss.of_variants(names)
        self.loss_after = losses[""]
        self.savings, self.before_ns = self.clock.savings(names)
        self.after_ns = self.before_ns
        left = [name for name in names if self.savings[name].low_ns > 0]
        for name in names:
            if name not in left:
                self.step.say(f"block '{name}' stays: nothing measurable is saved without it")
        while not self._enough():
            if not left:
                self._fell_short()
                break
            chosen = min(left, key=partial(self._price, losses))
            RemovedBlocks((chosen,)).apply(self.network)
            left.remove(chosen)
            self.removed.append(chosen)
            self.before_ns, self.after_ns = self.clock.latencies(chosen)
            losses = self.loss.of_variants(left)
            self.loss_after = losses[""]
            times = f"{_ms(self.before_ns)} to {_ms(self.after_ns)}"
            self.step.say(f"removed '{chosen}': loss {self.losses['']:.3f} to {self.loss_after:.3f}, {times}")

    def table(self) -> dict[str, Any]:
        """The artifact: what was measured of each block while all others were there, and which are gone."""
        whole = self.losses[""]
        return {
            "format": FORMAT,
            "samples": len(self.loss.order),
            "loss_before": whole,
            "loss_after": self.loss_after,
            "latency_before_ns": self.before_ns,
            "latency_after_ns": self.after_ns,
            "blocks": [
                {
                    "name": block.name,
                    "loss_rise": self.losses[block.name] - whole,
                    "saved_ns": self.savings[block.name].to_json(),
                    "macs": block.macs,
                    "parameters": block.parameters,
                    "removed": block.name in self.removed,
                    "order": self.removed.index(block.name) + 1 if block.name in self.removed else None,
                }
                for block in self.blocks
            ],
        }

    def _price(self, losses: Mapping[str, float], name: str) -> tuple[float, float]:
        """Rise of the loss for the time saved; of blocks that cost nothing, the one that saves most goes first."""
        saved = self.savings[name].median_ns
        return max(losses[name] - losses[""], 0.0) / saved, -saved

    def _enough(self) -> bool:
        share: float | None = self.step.parameters["latency"]
        if share is None:
            return len(self.removed) == int(self.step.parameters["blocks"])
        return self._saved() >= share

    def _saved(self) -> float:
        return 1 - self.after_ns / self.before_ns

    def _fell_short(self) -> None:
        share = self.step.parameters["latency"]
        if share is not None:
            raise DataError(
                f"removing blocks cannot take {share:.0%} off the latency: all {len(self.removed)} that save time take {self._saved():.1%}",
                hint="ask for what was reached in prune_blocks.latency, or name fewer blocks in prune_blocks.keep",
            )
        self.step.warn(
            f"{len(self.removed)} of {self.step.parameters['blocks']} blocks were removed: no other saves measurable time"
        )


def _candidates(network: nn.Module, signature: Signature, step: RunningStep) -> tuple[Block, ...]:
    blocks = without_kept(find_blocks(network, signature), step.parameters["keep"])
    wanted: int = step.parameters["blocks"] or 1
    if wanted > len(blocks):
        names = listed(f"'{block.name}'" for block in blocks)
        raise DataError(
            f"prune_blocks is to remove {wanted}, and of the network's blocks {len(blocks)} may go: {names}",
            hint="lower prune_blocks.blocks, or name fewer in prune_blocks.keep",
        )
    return blocks


class _Loss:
    """The mean cross entropy of a network, and of its variants without one block, on the same training samples."""

    def __init__(self, network: nn.Module, split: Split, step: RunningStep) -> None:
        self.network, self.split, self.step = network, split, step
        self.order = spread(split, step.parameters["samples"])

    def of_variants(self, names: Sequence[str]) -> dict[str, float]:
        """By the name of the block that is bypassed; "" is the network as it is now."""
        import torch

        losses = dict.fromkeys(("", *names), 0.0)
        labels = 0
        batches = self.split.batches(_BATCH, order=self.order)
        total = -(-len(self.order) // _BATCH)
        with torch.no_grad():
            for batch in self.step.tracked(batches, total=total, note="loss without each block"):
                for name in losses:
                    with bypassed(self.network, name) if name else nullcontext(), _blamed_on(name):
                        losses[name] += self._loss(batch)
                assert batch.labels is not None  # summed_loss saw to that
                labels += batch.labels.size
        return {name: loss / labels for name, loss in losses.items()}

    def _loss(self, batch: Batch) -> float:
        otherwise = "leave out the step 'prune_blocks'"
        loss = float(summed_loss(self.network, batch, self.split.signature, what="prune_blocks", otherwise=otherwise))
        if not math.isfinite(loss):
            raise DataError(f"the loss on training samples is {loss}", hint="check the weights")
        return loss


class _Clock:
    """Times a network and its variants on the target's backend, on one training sample."""

    def __init__(self, network: nn.Module, split: Split, step: RunningStep) -> None:
        self.network, self.signature, self.step = network, split.signature, step
        self.sample = next(split.batches(split.signature.batch_size(1))).inputs
        self.whole = self._compiled()

    def savings(self, names: Sequence[str]) -> tuple[dict[str, Saving], float]:
        """What the network saves without each of the blocks, and its own latency in nanoseconds."""
        savings: dict[str, Saving] = {}
        whole: list[int] = []
        for start in range(0, len(names), _VARIANTS_AT_ONCE):
            engines = {"": self.whole}
            for number, name in enumerate(names[start : start + _VARIANTS_AT_ONCE], start=start):
                self.step.progress(number, len(names), f"compiling without '{name}'")
                with bypassed(self.network, name), _blamed_on(name):
                    engines[name] = self._compiled()
            taken = self._timed(engines)
            whole += taken[""]
            savings.update({name: saving(taken[name], taken[""]) for name in engines if name})
        return savings, percentile(whole, _TYPICAL)

    def latencies(self, removed: str) -> tuple[float, float]:
        """Of the network as it came and as it is now, in nanoseconds, timed side by side."""
        with _blamed_on(removed):
            taken = self._timed({"before": self.whole, "after": self._compiled()})
        return percentile(taken["before"], _TYPICAL), percentile(taken["after"], _TYPICAL)

    def _timed(self, engines: Mapping[str, tuple[bytes, Any]]) -> dict[str, list[int]]:
        return time_side_by_side(engines, self.sample, backend_name=self.step.parameters["backend"], rounds=_ROUNDS)

    def _compiled(self) -> tuple[bytes, Any]:
        settings = self.step.parameters["settings"]
        with tempfile.TemporaryDirectory(dir=self.step.staging) as folder:
            path = Path(folder) / "network.onnx"
            export_network(self.network, self.signature, path)
            return backend(self.step.parameters["backend"]).compile(path.read_bytes(), settings), settings


@contextmanager
def _blamed_on(removed: str) -> Iterator[None]:
    """What goes wrong without a block is said of that block; "" is the network with all of its own."""
    try:
        yield
    except (DataError, UserCodeError) as error:
        if not removed:
            raise
        raise DataError(
            f"the network does not do without block '{removed}': {error.message}",
            hint=f"add '{removed}' to prune_blocks.keep",
        ) from error


def _ms(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.3f} ms"
