"""Blocks: the modules of a network whose place a plain connection can take.

Such a module is called once, with one tensor, gives one of the same shape, and has layers with weights inside. It is
best a residual block, which without its layers gives what it is given (Veit et al., "Residual Networks Behave Like
Ensembles of Relatively Shallow Networks", NIPS 2016); what lies inside one is no block, since the sum behind it would
then add the same tensor twice.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginewright.edits import module_at, replace_module
from enginewright.errors import DataError, did_you_mean
from enginewright.networks import outputs_of, to_tensors
from enginewright.signature import Signature
from enginewright.user_code import users

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Block", "bypassed", "find_blocks", "without_kept"]

_LEAST_WORK = 0.05  # of the largest block's: what does less is a gate in a block that is none itself, say


@dataclass(frozen=True)
class Block:
    """`name` is its path in the network; `macs` are the multiply-accumulates of one sample that go with it."""

    name: str
    macs: int
    parameters: int


@dataclass(frozen=True)
class _Call:
    """What a module was given, or why it is no block."""

    given: torch.Tensor | None
    reason: str = ""


def find_blocks(network: nn.Module, signature: Signature) -> tuple[Block, ...]:
    """The blocks of a network in evaluation mode, in its own order. Raises DataError where there are none.

    Where one that fits lies within another, the inner ones are taken if they do half of the outer one's work or more
    (the blocks of a stage), and the outer one if not (a gate within a block).
    """
    calls = _calls(network, signature)
    fitting = {path: call.given for path, call in calls.items() if call.given is not None}
    macs = _macs_of_modules(network, signature)
    residual = _innermost([path for path, given in fitting.items() if _has_a_shortcut(network, path, given)], macs)
    others = [path for path in fitting if not any(_within(path, one) or _within(one, path) for one in residual)]
    chosen = {*residual, *_innermost(others, macs)}
    most = max((macs[path] for path in chosen), default=0)
    chosen = {path for path in chosen if macs[path] >= _LEAST_WORK * most}
    if not chosen:
        reasons = [f"'{path}' {call.reason}" for path, call in calls.items()]
        raise DataError(
            "the network has no block that could be removed: a module of several layers that is called once, with one "
            f"tensor, and gives one of the same shape{': ' if reasons else ''}{'; '.join(reasons[:4])}",
            hint="write each residual block as a module of its own, or leave out the step 'prune_blocks'",
        )
    return tuple(
        Block(path, macs[path], sum(value.numel() for value in network.get_submodule(path).parameters()))
        for path in calls
        if path in chosen
    )


def without_kept(blocks: Iterable[Block], keep: Iterable[str]) -> tuple[Block, ...]:
    """The blocks but those that `keep` names, or a module around or inside them.

    Raises DataError for a name that is nowhere near a block.
    """
    blocks = tuple(blocks)
    kept: set[str] = set()
    for name in keep:
        meant = {block.name for block in blocks if _within(block.name, name) or _within(name, block.name)}
        if not meant:
            raise DataError(
                f"prune_blocks.keep names '{name}', which is no block that could be removed",
                hint=did_you_mean(name, [block.name for block in blocks], otherwise="The blocks are"),
            )
        kept |= meant
    return tuple(block for block in blocks if block.name not in kept)


@contextmanager
def bypassed(network: nn.Module, name: str) -> Iterator[None]:
    """Within the block of code, the module `name` gives what it is given."""
    from torch import nn

    module = module_at(network, name)
    replace_module(network, name, nn.Identity())
    try:
        yield
    finally:
        replace_module(network, name, module)


def _calls(network: nn.Module, signature: Signature) -> dict[str, _Call]:
    """One call of the network, as its modules of several layers with weights see it."""
    import torch

    paths: dict[nn.Module, list[str]] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        if path and any(True for _ in module.children()) and any(value.ndim > 1 for value in module.parameters()):
            paths.setdefault(module, []).append(path)
    seen: dict[nn.Module, list[_Call]] = {module: [] for module in paths}

    def note(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> None:
        seen[module].append(_call(given, named, result))

    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in paths]
    with torch.no_grad():
        outputs_of(network, to_tensors(signature.example(batch=2)), signature)
    for hook in hooks:
        hook.remove()
    calls: dict[str, _Call] = {}
    for module, (path, *others) in paths.items():
        if others:
            calls[path] = _Call(None, f"is also '{others[0]}'")
        elif len(seen[module]) != 1:
            calls[path] = _Call(None, f"is called {len(seen[module])} times")
        else:
            calls[path] = seen[module][0]
    return calls


def _call(given: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> _Call:
    import torch

    if len(given) != 1 or named or not isinstance(given[0], torch.Tensor):
        return _Call(None, "is given more than one tensor")
    if not isinstance(result, torch.Tensor):
        return _Call(None, f"gives a {type(result).__name__}")
    before, after = list(given[0].shape), list(result.shape)
    if before != after:
        return _Call(None, f"makes {after} of {before}")
    if given[0].dtype != result.dtype or not result.is_floating_point():
        return _Call(None, f"makes {result.dtype} of {given[0].dtype}")
    return _Call(given[0])


def _has_a_shortcut(network: nn.Module, path: str, given: torch.Tensor) -> bool:
    """Whether the module's output still depends on its input when the weights of its layers are zero."""
    import torch

    silent = copy.deepcopy(network.get_submodule(path))
    with torch.no_grad():
        for value in silent.parameters():
            if value.ndim > 1:  # those with one dimension are biases, and what normalization has
                value.zero_()
        other = given.abs().max() * torch.rand(given.shape, generator=torch.Generator().manual_seed(0))
        with users(f"running the module '{path}' alone"):
            return not torch.equal(silent(given), silent(other))


def _innermost(paths: list[str], macs: Mapping[str, int]) -> list[str]:
    """Those of the modules that hold no others of them with half of their work or more, from the inside out."""
    chosen: list[str] = []
    for path in sorted(paths, key=lambda item: item.count("."), reverse=True):
        inner = [one for one in chosen if _within(one, path)]
        if not inner or sum(macs[one] for one in inner) * 2 < macs[path]:
            chosen = [*(one for one in chosen if one not in inner), path]
    return chosen


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")


def _macs_of_modules(network: nn.Module, signature: Signature) -> dict[str, int]:
    """As `networks.count_macs`, for every module by its path."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    root = type(network).__name__
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs_of(network, to_tensors(signature.example(batch=1)), signature)
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    return {path: counts.get(f"{root}.{path}", 0) for path, _ in network.named_modules() if path}
