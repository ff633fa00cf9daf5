"""The command line: the only module that prints and that decides exit codes.

Results go to standard output, progress and errors to standard error. Exit codes: 0 ok, 1 a budget was missed, 2 bad
recipe, target or usage, 3 our bug, 4 inconclusive under --strict, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from enginewright import __version__
from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.exit_codes import ExitCode

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], ExitCode] = parsed.command
    try:
        code = command(parsed)
        sys.stdout.flush()
        return code
    except EnginewrightError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: finished steps are kept, the next build goes on from there", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # whoever read our output has left; Python must not complain about it at exit
        return ExitCode.OK
    except Exception:
        traceback.print_exc()
        print(
            f"enginewright {__version__}: this is a bug of ours; please report it with the lines above", file=sys.stderr
        )
        return ExitCode.BUG


def _complain(error: EnginewrightError) -> None:
    text = getattr(error, "traceback", "")
    if text:
        print(text.rstrip(), file=sys.stderr)
    print(f"error: {error}", file=sys.stderr)
    if error.exit_code == ExitCode.BUG:
        print(
            f"enginewright {__version__}: this is a bug of ours; please report it with the lines above", file=sys.stderr
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="enginewright", description="Build, verify and measure compressed models for the computer they run on."
    )
    parser.add_argument("--version", action="version", version=f"enginewright {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], ExitCode], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(command=run)
        return command

    for name, run, summary in (
        ("build", _build, "build a recipe for a target into dist/: the bundle and its report"),
        ("plan", _plan, "show the steps of a build: which are reused, and why each other is stale"),
        ("why", _why, "name the inputs that changed since the last build"),
    ):
        command = add(name, run, summary)
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
        command.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        if name == "build":
            command.add_argument("--strict", action="store_true", help="end with 4 where the verdict is INCONCLUSIVE")
        if name == "why":
            command.add_argument("step", metavar="STEP", nargs="?", help="only this step")
    command = add("gc", _gc, "remove from the store what no recipe's last build uses")
    command.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    command = add("schema", _schema, "print the JSON Schema of recipes or targets, for editors")
    command.add_argument("kind", choices=("recipe", "target"))
    command = add("targets", _targets, "list the targets")
    command.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    command = add("init", _init, "write a commented starter recipe that builds")
    command.add_argument("folder", nargs="?", default=".", type=Path, help="the project's folder (default: here)")
    command = add("doctor", _doctor, "what this host can build, run and measure, and what to install for the rest")
    command.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser


def _job(arguments: argparse.Namespace) -> Any:
    from enginewright.build import prepare
    from enginewright.project import find_project
    from enginewright.template import parse_settings

    return prepare(
        find_project(Path.cwd()), arguments.recipe, arguments.target, settings=parse_settings(arguments.settings)
    )


def _build(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.build import build
    from enginewright.progress import watch
    from enginewright.summary import build_json, build_table

    job = _job(arguments)
    watching = watch(sys.stderr)
    try:
        result = build(job, watch=watching)
    finally:
        watching.close()
    print(json.dumps(build_json(result)) if arguments.json else build_table(job, result))
    verdict = result.result["verdict"]
    if verdict == "FAIL":
        return ExitCode.FAILED
    return ExitCode.INCONCLUSIVE if verdict == "INCONCLUSIVE" and arguments.strict else ExitCode.OK


def _plan(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.build import examiner_of
    from enginewright.freshness import examine
    from enginewright.summary import plan_json, plan_table

    found = examine(examiner_of(_job(arguments)))
    print(json.dumps(plan_json(found)) if arguments.json else plan_table(found))
    return ExitCode.OK


def _why(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.build import examiner_of
    from enginewright.errors import UsageError, did_you_mean
    from enginewright.freshness import examine
    from enginewright.summary import plan_json, why_text

    job = _job(arguments)
    names = [step.name for step in job.plan.steps]
    if arguments.step is not None and arguments.step not in names:
        raise UsageError(
            f"the plan has no step '{arguments.step}'. {did_you_mean(arguments.step, names, otherwise='Its steps are')}"
        )
    found = [item for item in examine(examiner_of(job)) if arguments.step in (None, item.step.name)]
    print(json.dumps(plan_json(found)) if arguments.json else why_text(found))
    return ExitCode.OK


def _gc(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.project import find_project
    from enginewright.store import Store

    store = Store(find_project(Path.cwd()).store)
    builds = store.builds()
    swept = store.sweep({key for keys in builds.values() for key in keys.values()})
    if arguments.json:
        print(
            json.dumps(
                {
                    "records": swept.records,
                    "objects": swept.objects,
                    "freed_bytes": swept.freed_bytes,
                    "kept": sorted(builds),
                }
            )
        )
    else:
        kept = ", ".join(builds) or "nothing"
        print(
            f"removed {swept.records} step records and {swept.objects} artifacts, {swept.freed_bytes / 2**20:.1f} MiB; kept: {kept}"
        )
    return ExitCode.OK


def _schema(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.recipe import Recipe
    from enginewright.schema import json_schema
    from enginewright.target import Target

    print(json.dumps(json_schema(Recipe if arguments.kind == "recipe" else Target), indent=2))
    return ExitCode.OK


def _targets(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.errors import UsageError
    from enginewright.project import find_project
    from enginewright.target import catalogue, load_targets

    try:
        project = find_project(Path.cwd())
    except UsageError:
        project = None  # outside a project there is still the catalogue that comes with enginewright
    targets = load_targets(catalogue(project))
    if arguments.json:
        print(
            json.dumps(
                [
                    {"name": item.name, "summary": item.summary, "backend": item.backend, "build": item.build}
                    for item in targets
                ]
            )
        )
    else:
        for item in targets:
            print(f"{item.name:<12} {item.backend:<12} {item.summary}")
    return ExitCode.OK


def _init(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.starter import write_starter

    for path in write_starter(arguments.folder):
        print(f"wrote {path}")
    print(f"now: cd {arguments.folder} && enginewright build starter --target cpu")
    return ExitCode.OK


def _doctor(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.doctor import doctor_text, examine_host

    found = examine_host()
    print(json.dumps(found.to_json()) if arguments.json else doctor_text(found))
    return ExitCode.OK
