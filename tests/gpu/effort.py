"""How much the tests and the benchmark do: all of it, or so little that only their code is tried.

ENGINEWRIGHT_GPU_EFFORT=smoke runs everything with a few iterations, in seconds; its figures mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from enginewright_runtime.warm_up import WarmUpRule

__all__ = ["VARIABLE", "Effort", "chosen_effort"]

VARIABLE = "ENGINEWRIGHT_GPU_EFFORT"
_USUAL = WarmUpRule()


@dataclass(frozen=True)
class Effort:
    """Sessions of fresh processes with `rounds` rounds of `chunk` samples of each engine; `calls` to look for leaks in;
    `timed_calls` a way of calling; `gpu_ns` of timing on the GPU, after `gpu_warm_up_ns`; `takes` of ours and trtexec's
    in turn.
    """

    sessions: int = 8
    rounds: int = 40
    chunk: int = 5
    calls: int = 10_000
    timed_calls: int = 2_000
    gpu_warm_up_ns: int = 200_000_000
    gpu_ns: int = 3_000_000_000
    takes: int = 3
    warm_up: WarmUpRule = _USUAL


_SMOKE = Effort(
    sessions=3,
    rounds=3,
    chunk=3,
    calls=60,
    timed_calls=20,
    gpu_warm_up_ns=1,
    gpu_ns=1,
    takes=1,
    warm_up=WarmUpRule(
        least_ns=1_000_000, least_count=2, window=2, steady_share=1.0, steady_times=1, cap_ns=200_000_000
    ),
)
_EFFORTS = {"full": Effort(), "smoke": _SMOKE}


def chosen_effort(environment: Mapping[str, str] = os.environ) -> Effort:
    """What the environment asks for. Raises ValueError for a word that is none of them."""
    word = environment.get(VARIABLE) or "full"
    if word not in _EFFORTS:
        raise ValueError(f"{VARIABLE} is {word!r}, and must be one of {', '.join(_EFFORTS)}")
    return _EFFORTS[word]
