"""Channels that leave a network together.

Torch-Pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023) says which channels
belong together: an output of one layer and the inputs that read it, all terms of an addition, the same place in every
group of a grouped convolution. What of them leaves is decided here, in units of as many channels as the target's
kernels compute at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginewright.edits import Kept
from enginewright.errors import DataError, EnginewrightError
from enginewright.networks import to_tensors
from enginewright.pruning.importance import Scorer
from enginewright.signature import Signature

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Ranking", "Unit", "channel_count", "rank", "without"]

_LEAST_KEPT = 0.1  # no layer disappears altogether
# Where modules say how many channels they have.
_OUTPUT_COUNTS = ("out_channels", "out_features", "num_features", "num_channels", "num_parameters")
_INPUT_COUNTS = ("in_channels", "in_features", *_OUTPUT_COUNTS)


@dataclass(frozen=True)
class Unit:
    """Channels that leave at once: output channels of the module `root`, and all that depends on them. The units of one
    root leave in the order of their `worth`, which is the mean importance of their channels.
    """

    root: str
    channels: tuple[int, ...]
    worth: float


@dataclass(frozen=True)
class Ranking:
    """All units that may leave, that of the least worth first; `unjudged` are the roots whose channels the measure has
    no values for.
    """

    units: tuple[Unit, ...]
    unjudged: tuple[str, ...]


def rank(network: nn.Module, signature: Signature, scorer: Scorer, *, round_to: int, keep: Iterable[str]) -> Ranking:
    """The units in which channels can leave `network`, whose parameters have the gradients that `scorer` needs.

    What remains of a layer is a multiple of `round_to` channels, at least one of them and a tenth of all. `keep` are
    paths of modules that lose no outputs. Raises DataError where Torch-Pruning cannot follow the network.
    """
    with _errors_of_the_library():
        graph = _graph(network, signature)
        modules = dict(network.named_modules())
        paths = {module: path for path, module in modules.items()}
        units: list[Unit] = []
        unjudged: list[str] = []
        for group in graph.get_all_groups(ignored_layers=[modules[path] for path in keep], root_module_types=_roots()):
            root = paths[group[0].dep.target.module]
            values = scorer(group)
            if values is None:
                unjudged.append(root)
            else:  # a layer that is worth nothing at all was divided by a mean of 0
                units += _units(root, values.nan_to_num().tolist(), groups=_groups(group), round_to=round_to)
    return Ranking(tuple(sorted(units, key=lambda unit: unit.worth)), tuple(unjudged))


def without(network: nn.Module, signature: Signature, units: Sequence[Unit]) -> tuple[nn.Module, dict[str, Kept]]:
    """A copy of the network that lacks the channels of `units`, and what remains of each module that lost some.

    Raises DataError where that cannot be kept as data.
    """
    pruned = copy.deepcopy(network)
    leaving: dict[str, list[int]] = {}
    for unit in units:
        leaving.setdefault(unit.root, []).extend(unit.channels)
    with _errors_of_the_library():
        graph = _graph(pruned, signature)
        kept = _KeptSoFar(pruned)
        for path, channels in leaving.items():
            root = pruned.get_submodule(path)
            group = graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, sorted(channels))
            if graph.check_pruning_group(group):  # else nothing would remain of some layer that depends on these
                for dependency, indices in group:
                    outputs = graph.is_out_channel_pruning_fn(dependency.handler)
                    kept.remove(dependency.target.module, indices, outputs=outputs)
                group.prune()
    return pruned.eval(), kept.channels()


def channel_count(module: nn.Module) -> int | None:
    """The number of a module's output channels; None where it has no such number."""
    return _count(module, _OUTPUT_COUNTS)


def _units(root: str, values: Sequence[float], *, groups: int, round_to: int) -> list[Unit]:
    """`values`: the importance of each channel of `root`. From each of `groups` equal parts the same places leave."""
    channels, unit = len(values), math.lcm(round_to, groups)
    if channels % groups:
        return []
    places = channels // groups
    worth = [sum(values[place::places]) / groups for place in range(places)]
    order = sorted(range(places), key=lambda place: worth[place])
    units: list[Unit] = []
    size, left = channels % unit or unit, channels  # the first to leave makes the number a multiple
    while left - size >= max(unit, _LEAST_KEPT * channels):
        taken, order = order[: size // groups], order[size // groups :]
        mean = sum(worth[place] for place in taken) / len(taken)
        leaving = tuple(place + group * places for group in range(groups) for place in taken)
        # The mean of equal values may be rounded down, and would leave before the unit in front of it.
        units.append(Unit(root, leaving, max([mean, *(before.worth for before in units[-1:])])))
        left, size = left - size, unit
    return units


def _graph(network: nn.Module, signature: Signature) -> Any:
    """Torch-Pruning has no types."""
    from torch_pruning import DependencyGraph

    example = tuple(to_tensors(signature.example(batch=1)).values())
    return DependencyGraph().build_dependency(network, example_inputs=example)


def _roots() -> tuple[type[nn.Module], ...]:
    from torch import nn

    return (nn.modules.conv._ConvNd, nn.Linear)


def _groups(group: Any) -> int:
    """Into how many equal parts the channels of a group are divided by what reads or makes them."""
    from torch import nn

    parts = 1
    for dependency, _ in group:
        module = dependency.target.module
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups != module.out_channels:
            parts = math.lcm(parts, module.groups)
        elif isinstance(module, nn.GroupNorm):
            parts = math.lcm(parts, module.num_groups)
    return parts


class _KeptSoFar:
    """Follows which channels of each module remain while groups are pruned one after the other."""

    def __init__(self, network: nn.Module) -> None:
        self._paths = {module: path for path, module in network.named_modules()}
        self._inputs: dict[str, list[int]] = {}
        self._outputs: dict[str, list[int]] = {}

    def remove(self, module: nn.Module, channels: list[int], *, outputs: bool) -> None:
        """`channels` are indices into what the module has now."""
        path = self._paths.get(module)
        if path is None:
            return  # an operation of the graph (an addition, a reshape), which has no weights
        if getattr(module, "num_parameters", 0) == 1:
            return  # a PReLU with one slope for all channels
        size = _count(module, _OUTPUT_COUNTS if outputs else _INPUT_COUNTS)
        if size is None:
            raise DataError(
                f"module '{path}' is a {type(module).__name__}, and its pruned channels cannot be kept as data",
                hint=f"leave it as it is: add '{path}', and the modules that feed it, to prune.keep",
            )
        side = self._outputs if outputs else self._inputs
        gone = set(channels)
        before = side.get(path, list(range(size)))
        side[path] = [channel for position, channel in enumerate(before) if position not in gone]

    def channels(self) -> dict[str, Kept]:
        return {
            path: Kept(_tuple(self._inputs.get(path)), _tuple(self._outputs.get(path)))
            for path in sorted({*self._inputs, *self._outputs})
        }


def _count(module: nn.Module, names: tuple[str, ...]) -> int | None:
    return next((int(getattr(module, name)) for name in names if hasattr(module, name)), None)


def _tuple(channels: list[int] | None) -> tuple[int, ...] | None:
    return None if channels is None else tuple(channels)


@contextmanager
def _errors_of_the_library() -> Iterator[None]:
    """What Torch-Pruning cannot follow, it meets with assertions and index errors."""
    try:
        yield
    except (EnginewrightError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"Torch-Pruning cannot prune the network: {type(error).__name__}: {error}",
            hint="add the modules of kinds that are rare (recurrent layers, attention, depthwise convolutions with more outputs "
            "than inputs), and what feeds them, to prune.keep",
        ) from error
