"""The processes that train one network together, as one of them sees it.

Each takes its share of every batch; gradients are averaged by DistributedDataParallel, so that a step is that of the
whole batch. Batch normalisation normalises each share by the share's own statistics; the running statistics are those
of the first process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from enginewright.errors import DataError
from enginewright_runtime.host import usable_cores

if TYPE_CHECKING:
    import torch
    from torch import nn

    from enginewright.datasets import Batch
    from enginewright.training.losses import Loss

__all__ = ["ALONE", "Team", "join"]

_FOREVER = timedelta(days=30)  # the others wait while the first validates; who ends them sees to a process that died


@dataclass(frozen=True)
class Team:
    """`rank` is this process's number among `size`; the first validates, and writes what is kept."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def device(self) -> torch.device:
        import torch

        return torch.device("cuda", self.rank) if torch.cuda.is_available() else torch.device("cpu")

    def share(self, batch: Sequence[int]) -> Sequence[int]:
        """This process's part of a batch: shares differ by one sample at most."""
        return batch[self.rank :: self.size]

    def weight(self, batch: Sequence[int]) -> float:
        """What the mean over this process's share counts, so that the mean over the processes is that over the batch."""
        return len(self.share(batch)) * self.size / len(batch)

    def mean(self, value: torch.Tensor) -> float:
        """The mean of the processes' values: the same number in each of them."""
        import torch

        if self.size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return float(value) / self.size

    def together(self, network: nn.Module, loss: Loss) -> Callable[[Batch], torch.Tensor]:
        """The loss of `network` on a batch; on the way back, the gradients become those of the whole batch."""
        from torch import nn

        if self.size == 1:
            return partial(loss, network)

        class Objective(nn.Module):
            """The loss is computed within, so that the parameters that it does not reach, as those of other outputs,
            are seen and not waited for.
            """

            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, batch: Batch) -> torch.Tensor:
                return loss(self.network, batch)

        return nn.parallel.DistributedDataParallel(Objective(), find_unused_parameters=True)


ALONE = Team()


def join(rank: int, size: int, *, meeting: Path) -> Team:
    """Meet the other processes of this computer in the file `meeting`, which none of them has made yet.

    Raises DataError where there are GPUs, but fewer than processes.
    """
    import torch

    team = Team(rank, size)
    cuda = torch.cuda.is_available()
    if cuda and torch.cuda.device_count() < size:
        raise DataError(
            f"{size} processes are to train, and there are {torch.cuda.device_count()} GPUs: each needs one of its own",
            hint=f"set processes to {torch.cuda.device_count()}",
        )
    if cuda:
        torch.cuda.set_device(team.device())
    torch.set_num_threads(max(1, usable_cores() // size))
    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo", init_method=meeting.as_uri(), rank=rank, world_size=size, timeout=_FOREVER
    )
    return team
