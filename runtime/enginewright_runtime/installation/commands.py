"""What the commands install, rollback, status and list do: the exit code, the object for --json, the lines for people."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from enginewright_runtime.answer import Answer
from enginewright_runtime.canonical import Json
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.installation.installed import Health, health
from enginewright_runtime.installation.installing import Installation, OnStep, install, rollback
from enginewright_runtime.installation.root import Installed, Root

HELP = {
    "install": "verify a bundle, try it on this machine, and make it what applications open",
    "rollback": "go back to the bundle that was installed before",
    "status": "say which bundle is installed, whether it is whole, and whether it runs here",
    "list": "list the bundles that are kept, and those that were refused",
}


def add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    """What one of the commands takes."""
    if name == "install":
        command.add_argument("bundle", type=Path, metavar="BUNDLE")
        command.add_argument("--allow-older", action="store_true", help="although its sequence number is smaller")
        command.add_argument("--allow-refused", action="store_true", help="although it was refused before")
    command.add_argument("--root", type=Path, required=True, metavar="DIR", help="the folder of installed bundles")
    if name != "list":
        command.add_argument("--key", type=Path, metavar="PUBLIC", help="the public key that must have signed it")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")


def told_install(options: argparse.Namespace, on_step: OnStep) -> Answer:
    """Install a bundle; see `enginewright_runtime.installation.install`."""
    done = install(
        options.bundle,
        options.root,
        require_key=options.key,
        allow_older=options.allow_older,
        allow_refused=options.allow_refused,
        on_step=on_step,
    )
    return _told_current(options.root, done, "installed" if done.changed else "already installed, and whole")


def told_rollback(options: argparse.Namespace, on_step: OnStep) -> Answer:
    """Go back to the bundle before; see `enginewright_runtime.installation.rollback`."""
    return _told_current(options.root, rollback(options.root, require_key=options.key, on_step=on_step), "went back to")


def told_status(options: argparse.Namespace, on_step: OnStep) -> Answer:
    """How the current bundle and the one before are: 1 where none is current or it is damaged, 4 where none runs."""
    root = Root(options.root)
    state = root.read()
    found = {
        role: health(root, bundle, require_key=options.key) if bundle else None
        for role, bundle in (("current", state.current), ("previous", state.previous))
    }
    lines = [f"{role:9} {_health_text(one)}" for role, one in found.items()]
    lines.append(f"refused   {len(state.refused)}")
    json: dict[str, Json] = {role: _health_json(one) for role, one in found.items()}
    return Answer(
        _status_code(found["current"]), {"root": str(root.path), **json, "refused": len(state.refused)}, lines
    )


def told_list(options: argparse.Namespace, on_step: OnStep) -> Answer:
    """Which bundles are kept and which were refused; none of them is read."""
    state = Root(options.root).read()
    kept = {"current": state.current, "previous": state.previous}
    lines = [f"{role:9} {bundle}" for role, bundle in kept.items() if bundle]
    lines += [f"refused   {one.bundle}: {one.reason}" for one in state.refused]
    return Answer(ExitCode.OK, {"root": str(options.root), **state.to_json()}, lines or ["nothing is installed"])


COMMANDS: Mapping[str, Callable[[argparse.Namespace, OnStep], Answer]] = {
    "install": told_install,
    "rollback": told_rollback,
    "status": told_status,
    "list": told_list,
}


def _told_current(root: Path, done: Installation, what: str) -> Answer:
    lines = [f"{root}: {what} {done.current}"]
    lines += [f"  {finding.verdict.value:12} {finding.sentence}" for finding in done.findings]
    lines += [f"  before: {done.previous}"] if done.previous else []
    json: dict[str, Json] = {
        "root": str(root),
        "current": done.current.to_json(),
        "previous": _installed_json(done.previous),
        "changed": done.changed,
        "findings": [finding.to_json() for finding in done.findings],
    }
    return Answer(ExitCode.OK, json, lines)


def _installed_json(bundle: Installed | None) -> Json:
    return bundle.to_json() if bundle else None


def _health_json(found: Health | None) -> Json:
    if found is None:
        return None
    return {**found.bundle.to_json(), "path": str(found.path), "fault": found.fault, "misfit": found.misfit}


def _health_text(found: Health | None) -> str:
    if found is None:
        return "none"
    return f"{found.bundle}: {found.fault or found.misfit or 'whole, and runs here'}"


def _status_code(current: Health | None) -> ExitCode:
    if current is None or current.fault:
        return ExitCode.FAILED
    return ExitCode.INCONCLUSIVE if current.misfit else ExitCode.OK
