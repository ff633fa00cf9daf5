"""The commands, what each is for, and its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from enginewright import __version__
from enginewright.gate.command import add_gate_options
from enginewright.report_command import add_report_options
from enginewright_runtime.exit_codes import ExitCode

__all__ = ["Command", "parser"]

Command: TypeAlias = "Callable[[argparse.Namespace], ExitCode]"


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Of a command line that names one of `commands`, under `command`, with its options. In the order of `commands`."""
    made = argparse.ArgumentParser(
        prog="enginewright", description="Build, verify and measure compressed models for the computer they run on."
    )
    made.add_argument("--version", action="version", version=f"enginewright {__version__}")
    added = made.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for name in commands:
        summary, add_options = _OPTIONS[name]
        add_options(added.add_parser(name, help=summary, description=summary))
    return made


def _add_build_options(command: argparse.ArgumentParser) -> None:
    _add_plan_options(command)
    command.add_argument("--strict", action="store_true", help="end with 4 where the verdict is INCONCLUSIVE")
    command.add_argument(
        "--require-measured", action="store_true", help="end with 4 where the engine is still to be measured"
    )
    command.add_argument(
        "--device",
        type=_address,
        metavar="ssh://[USER@]HOST[:PORT]",
        help="finish the bundle there: compile, evaluate and measure it on that device",
    )


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or its file")
    command.add_argument("--target", required=True, help="the target's name (`enginewright targets` lists them)")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="a value for the recipe's template",
    )
    _add_json(command)


def _add_why_options(command: argparse.ArgumentParser) -> None:
    _add_plan_options(command)
    command.add_argument("step", metavar="STEP", nargs="?", help="only this step")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def _add_schema_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("kind", choices=("recipe", "target"))


def _add_trend_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="bundles, measurement files, or folders of them"
    )
    command.add_argument("--output", type=Path, metavar="TREND.html", help="write a page with the plots")
    _add_json(command)


def _add_baseline_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", choices=("save", "fetch"))
    command.add_argument("name", metavar="NAME", help="such as main or release-1.2")
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle to save, or where to put it")
    command.add_argument(
        "--store", metavar="ADDRESS", help="a folder, s3://bucket/folder and the like (ENGINEWRIGHT_BASELINES)"
    )
    _add_json(command)


def _add_init_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", nargs="?", default=".", type=Path, help="the project's folder (default: here)")


def _add_keygen_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="the private key; the public one becomes FILE.pub")


def _add_sign_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE")
    command.add_argument("--key", required=True, type=Path, metavar="FILE", help="the private key")


def _address(text: str) -> Any:
    from enginewright.device.address import parse_address
    from enginewright.errors import UsageError

    try:
        return parse_address(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {error.hint}") from None


_OPTIONS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "build": ("build a recipe for a target into dist/: the bundle and its report", _add_build_options),
    "plan": ("show the steps of a build: which are reused, and why each other is stale", _add_plan_options),
    "why": ("name the inputs that changed since the last build", _add_why_options),
    "gate": (
        "judge a bundle against a baseline, side by side on this machine: PASS, FAIL or INCONCLUSIVE",
        add_gate_options,
    ),
    "report": (
        "write the report of a bundle, with what devices have made of it and measured since",
        add_report_options,
    ),
    "gc": ("remove from the store what no recipe's last build uses", _add_json),
    "schema": ("print the JSON Schema of recipes or targets, for editors", _add_schema_options),
    "targets": ("list the targets, and what this host can do for each: build, run, or neither", _add_json),
    "trend": ("show how the figures went over commits, with every change marked", _add_trend_options),
    "baseline": ("keep a bundle as a baseline under a name, or fetch it", _add_baseline_options),
    "init": ("write a commented starter recipe that builds", _add_init_options),
    "doctor": ("what this host can build, run and measure, and what to install for the rest", _add_json),
    "keygen": ("make a pair of keys for signing bundles", _add_keygen_options),
    "sign": ("sign a bundle", _add_sign_options),
}
