"""Commands that run on a device whether or not we are connected, and what has become of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright.device.connection import Device
from enginewright.device.errors import DeviceError
from enginewright_runtime.canonical import sha256_hex

__all__ = ["Ended", "Jobs", "Place", "find_place"]

_SCRIPT = Path(__file__).with_name("remote_job.py")
_FOLDER = ".cache/enginewright/lab"  # in the home of the device's user
_LEAST_PYTHON = (3, 10)
_STOP_S = 30.0


@dataclass(frozen=True)
class Place:
    """What a device is, and the folder that is ours there."""

    root: str
    python: str
    machine: str
    free_bytes: int


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, what it printed, and the lines that it logged."""

    code: int
    out: str
    log: tuple[str, ...]


async def find_place(device: Device) -> Place:
    """Look at the device. Raises DeviceError where it has no Python that the runtime supports."""
    code, out, err = await device.run(["python3", "-c", _SCRIPT.read_text(), "place"])
    hint = "the runtime needs Python 3.10 or later as python3: install it there"
    if code != 0:
        said = (err.strip().splitlines() or [f"exit code {code}"])[-1]
        raise DeviceError(f"{device.address} does not run python3: {said}", hint=hint)
    found = _parsed(out, device)
    if tuple(int(part) for part in found["python"].split(".")) < _LEAST_PYTHON:
        raise DeviceError(f"{device.address} has Python {found['python']}", hint=hint)
    root = f"{found['home']}/{_FOLDER}"
    code, _, err = await device.run(["mkdir", "-p", f"{root}/environments", f"{root}/jobs"])
    if code != 0:
        raise DeviceError(f"{device.address}: {err.strip()}", hint="see that the disk has room and can be written")
    return Place(root, found["python"], found["machine"], found["free_bytes"])


class Jobs:
    """Runs commands in the folder `root` of a device, each in one of its own and once: a command that runs already, of an
    earlier attempt perhaps, is followed, and one that has succeeded is not run again.
    """

    def __init__(self, device: Device, root: str, *, say: Callable[[str], None]) -> None:
        self._device = device
        self._root = root
        self._say = say
        self._script = ""

    async def run(self, folder: str, command: Sequence[str], *, on_line: Callable[[str], None]) -> Ended:
        """Run `command` to its end, with `on_line` for each line of its log.

        Ctrl-C (the task is cancelled) stops it on the device too, or names what still runs. Raises DeviceError where
        it was killed on the device, and what `Device` raises; then it goes on there.
        """
        try:
            begun = await self._ask("start", folder, *command)
            if begun["state"] == "running":
                await self._follow(folder, on_line)
            state = await self._ask("state", folder)
        except asyncio.CancelledError:
            await self._stop(folder)
            raise
        if state["state"] != "done":
            raise DeviceError(
                f"{self._device.address}: the command in {folder} was killed",
                hint="was the device restarted, or its memory exhausted? Build again: what was done before is kept",
            )
        out, log = [(await self._device.get(f"{folder}/{name}")).decode(errors="replace") for name in ("out", "log")]
        return Ended(state["code"], out, tuple(log.splitlines()))

    async def _follow(self, folder: str, on_line: Callable[[str], None]) -> None:
        script = await self._script_path()
        lines = self._device.lines(lambda taken: ["python3", script, "follow", folder, str(taken)])
        async with aclosing(lines):
            async for line in lines:
                on_line(line)

    async def _stop(self, folder: str) -> None:
        """What cannot be stopped is named, with how to stop it."""
        try:
            state = await asyncio.wait_for(self._ask("stop", folder), _STOP_S)
        except (DeviceError, asyncio.TimeoutError):
            state = {"state": "running"}
        if state["state"] == "running":
            self._say(
                f"it still runs on {self._device.address}; to stop it there: python3 {self._script} stop {folder}"
            )
        else:
            self._say(f"stopped on {self._device.address}")

    async def _ask(self, verb: str, *words: str) -> dict[str, Any]:
        code, out, err = await self._device.run(["python3", await self._script_path(), verb, *words])
        if code != 0:
            raise DeviceError(
                f"{self._device.address}: a command could not be run: {' '.join(err.strip().splitlines()[-1:])}",
                hint="see that the disk has room and can be written",
            )
        return _parsed(out, self._device)

    async def _script_path(self) -> str:
        if not self._script:
            script = _SCRIPT.read_bytes()
            path = f"{self._root}/job-{sha256_hex(script)[:12]}.py"
            await self._device.put(script, path)
            self._script = path
        return self._script


def _parsed(out: str, device: Device) -> dict[str, Any]:
    """The last line, as a shell's own greeting may come before it."""
    with suppress(ValueError, IndexError):
        content = json.loads(out.strip().splitlines()[-1])
        if isinstance(content, dict):
            return content
    raise DeviceError(
        f"{device.address} answers {out.strip()[-200:]!r}",
        hint="its shell must print nothing of its own when a command is run over SSH",
    )
