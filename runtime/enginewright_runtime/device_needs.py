"""Whether this machine is the device that a pending engine is for, and in the power mode that it is to be measured in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginewright_runtime.backends import Backend
from enginewright_runtime.host import machine
from enginewright_runtime.manifest import Manifest
from enginewright_runtime.telemetry import jetson
from enginewright_runtime.tensorrt.identity import FIGURES, other_model

__all__ = ["Fit", "fit", "fit_of_the_machine", "meant_power_mode"]

POWER_MODE = "power_mode"

_ELSEWHERE = "take the bundle to the device that it is for"
_ANOTHER_TARGET = "build for the target that this device is: `enginewright targets` lists them"
_OWN_TARGET = "to measure in another mode, write a target with that power_mode"


@dataclass(frozen=True)
class Fit:
    """`differences`: why the machine is not the device, as clauses; none if it is. `hint`: what to do about them.
    `warnings`: what could not be told, as sentences.
    """

    differences: tuple[str, ...] = ()
    hint: str = ""
    warnings: tuple[str, ...] = ()


def fit_of_the_machine(needs: Mapping[str, str]) -> Fit:
    """Compare the architecture alone, which needs no library: what is missing on the wrong machine is not to be installed."""
    wanted, found = needs.get("machine", machine()), machine()
    return Fit() if wanted == found else Fit((_difference("machine", wanted, found),), _ELSEWHERE)


def fit(needs: Mapping[str, str], chosen: Backend, here: Mapping[str, str]) -> Fit:
    """Compare what a pending engine `needs` with this machine, where an engine of `chosen` would need `here`.

    The GPU is looked at closely only where `needs` name a figure of it, and nvpmodel is asked only where they name a
    power mode.
    """
    from enginewright_runtime.backends.tensorrt import TensorRT

    gpu = chosen.device if isinstance(chosen, TensorRT) and any(name in needs for name in FIGURES) else None
    looked_at = {POWER_MODE, *(FIGURES if gpu else ())}
    plain = [
        _difference(name, wanted, here.get(name))
        for name, wanted in needs.items()
        if name not in looked_at and here.get(name) != wanted
    ]
    if plain:
        return Fit(tuple(plain), _ELSEWHERE)
    wanted_mode = needs.get(POWER_MODE)
    found_mode = jetson.power_mode() if wanted_mode is not None else None
    model, switched_off = other_model(needs, gpu()) if gpu else ("", False)
    if model and not switched_off:
        return Fit((model,), _ANOTHER_TARGET)
    if wanted_mode is not None and found_mode is not None and found_mode != wanted_mode:
        mode = f"it is to be measured in the power mode {wanted_mode}, and {found_mode} is set"
        return Fit((*filter(None, [model]), mode), _how_to_set(wanted_mode))
    if model:
        return Fit((model,), f"set a power mode that has all SMs, or {_ANOTHER_TARGET}")
    return Fit(warnings=_warnings(wanted_mode, found_mode))


def meant_power_mode(manifest: Manifest) -> str | None:
    """The power mode that the budgets of a bundle are of; None where its target named none."""
    return next((mode for engine in manifest.pending if (mode := engine.requires.get(POWER_MODE))), None)


def _difference(name: str, wanted: str, found: str | None) -> str:
    return f"it is for {name.replace('_', ' ')} {wanted}, and this device has {found or 'none'}"


def _how_to_set(mode: str) -> str:
    known = jetson.power_modes()
    if mode in known:
        command = f"`sudo nvpmodel -m {known[mode]}` sets {mode}, after a restart if it asks for one"
    elif known:
        command = f"no power mode of this board is called {mode}: /{jetson.MODES_FILE} has {', '.join(known)}"
    else:
        command = f"`sudo nvpmodel -m ID` sets it, with the ID that /{jetson.MODES_FILE} has for {mode}"
    return f"{command}; `sudo jetson_clocks` then holds the clocks; {_OWN_TARGET}"


def _warnings(wanted_mode: str | None, found_mode: str | None) -> tuple[str, ...]:
    if wanted_mode is None or found_mode is not None:
        return ()
    return (f"the power mode is unknown: nvpmodel does not tell it, and the target is measured in {wanted_mode}",)
