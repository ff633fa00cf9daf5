"""What this computer can do for a target: build its engine, run it, or neither, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginewright.target import Target
from enginewright_runtime.backends import backend
from enginewright_runtime.device_needs import fit
from enginewright_runtime.errors import BackendMissing, EngineError
from enginewright_runtime.host import machine
from enginewright_runtime.tensorrt.device import NoDevice

__all__ = ["Ability", "ability"]


@dataclass(frozen=True)
class Ability:
    """`builds`: the engine can be compiled here. `runs`: it can be run and measured here. `why` not, as a clause.

    `requires` is what an engine made here needs; empty where none can be.
    """

    builds: bool
    runs: bool
    why: str = ""
    requires: Mapping[str, str] | None = None

    @property
    def words(self) -> str:
        """Such as "build and run", or "pending: TensorRT is not installed"."""
        if self.runs:
            return "build and run"
        return f"{'build, not run' if self.builds else 'pending'}: {self.why}"


def ability(target: Target) -> Ability:
    """Look at this computer for one target. The first look at a GPU takes a second or so."""
    if target.build == "here":
        return _here(target)
    if target.machine is not None and target.machine != machine() and target.build == "device":
        return Ability(False, False, f"this computer is {machine()}, and its engine is compiled on {target.machine}")
    try:
        requires = backend(target.backend).requires(target.engine_settings())
    except (BackendMissing, NoDevice) as error:
        return Ability(False, False, error.message)
    differs = [
        f"{word} {found} is here, and the target has {pinned}"
        for word, found, pinned in (
            ("compute capability", requires.get("compute_capability"), target.compute_capability),
            ("TensorRT", requires.get("tensorrt"), target.tensorrt),
        )
        if found is not None and pinned is not None and not _same(found, pinned)
    ]
    if not differs and target.build == "device":  # the same architecture and capability may be of another model
        differs = list(fit(target.needs(), backend(target.backend), requires).differences)
    if differs:
        return Ability(False, False, "; ".join(differs))
    misfit = backend(target.backend).misfit(requires)
    return Ability(True, not misfit, misfit, requires)


def _here(target: Target) -> Ability:
    try:
        requires = backend(target.backend).requires(target.engine_settings())
    except (BackendMissing, EngineError) as error:
        return Ability(False, False, error.message)
    return Ability(True, True, "", requires)


def _same(found: str, pinned: str) -> bool:
    """Whether a version is the one that is pinned, by as many places as the pin has.

    >>> _same("10.3.0", "10.3"), _same("10.13.0", "10.3")
    (True, False)
    """
    wanted = pinned.split(".")
    return found.split(".")[: len(wanted)] == wanted
