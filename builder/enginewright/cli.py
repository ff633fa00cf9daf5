"""The command line: the only module that prints and that decides exit codes.

Results go to standard output, progress and errors to standard error. Exit codes: 0 ok, 1 a budget or the gate failed, 2 bad
recipe, target or usage, 3 our bug, 4 inconclusive (a gate, or a build under --strict) or pending (under
--require-measured), 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from enginewright import __version__
from enginewright.command_line import Command, parser
from enginewright.gate.command import run_gate_command
from enginewright.report_command import run_report
from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.exit_codes import ExitCode

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    _mend_streams()
    parsed = parser(_COMMANDS).parse_args(arguments)
    command = _COMMANDS[parsed.command]
    try:
        code = command(parsed)
        _flush()
        return code
    except EnginewrightError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        if arguments is None:  # the process ends with this command: a second Ctrl-C must not change its exit code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        kept = (
            "there is no verdict" if command is _gate else "finished steps are kept, the next build goes on from there"
        )
        _tell(f"interrupted: {kept}")
        return ExitCode.INTERRUPTED
    except Exception:
        _tell(traceback.format_exc().rstrip())
        _own_up()
        return ExitCode.BUG


def _mend_streams() -> None:
    """A stream that was closed before we began becomes the null device: else the next file that is opened would take
    its number, and get what is printed. Letters that a terminal has not are escaped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (open as long as we run)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    """Print a result. That nobody reads it is no error, and does not change the exit code; that it cannot be written
    is.
    """
    try:
        print(text)
    except OSError as error:
        _unsaid(error)


def _tell(text: str) -> None:
    """Print an error or a remark. Where nobody reads it, the exit code still says how it went."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _own_up() -> None:
    """What follows the traceback of a bug."""
    _tell(f"enginewright {__version__}: this is a bug of ours; please report it with the lines above")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        _unsaid(error)


def _unsaid(error: OSError) -> None:
    from enginewright.errors import UsageError

    with Path(os.devnull).open("wb") as nowhere:  # Python flushes once more at exit, and must not complain then
        os.dup2(nowhere.fileno(), 1)
    if not isinstance(error, BrokenPipeError):
        raise UsageError(
            f"standard output cannot be written: {error.strerror}", hint="free some space there, or send it elsewhere"
        ) from error


def _here() -> Path:
    from enginewright.errors import UsageError

    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the working folder is gone or cannot be read: {error.strerror}", hint="cd to your project first"
        ) from None


def _complain(error: EnginewrightError) -> None:
    text = getattr(error, "traceback", "")
    if text:
        _tell(text.rstrip())
    _tell(f"error: {error}")
    if error.exit_code == ExitCode.BUG:
        _own_up()


def _job(arguments: argparse.Namespace) -> Any:
    from enginewright.build import prepare
    from enginewright.project import find_project
    from enginewright.template import parse_settings

    return prepare(
        find_project(_here()), arguments.recipe, arguments.target, settings=parse_settings(arguments.settings)
    )


def _build(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.build import build
    from enginewright.progress import watch
    from enginewright.summary import build_json, build_table

    job = _job(arguments)
    if arguments.device:
        from enginewright.device.connection import needs_asyncssh
        from enginewright.device.delivery import deliver
        from enginewright.device.outcome import delivered_json, delivered_table

        needs_asyncssh()  # before the hours that a build may take
    watching = watch(sys.stderr)
    try:
        result = build(job, watch=watching)
        delivered = deliver(job, result, arguments.device, watch=watching) if arguments.device else None
    finally:
        watching.close()
    if delivered is None:
        _say(json.dumps(build_json(result)) if arguments.json else build_table(job, result))
        verdict = result.result["verdict"]
    else:
        as_json = arguments.json
        _say(json.dumps(delivered_json(result, delivered)) if as_json else delivered_table(job, result, delivered))
        verdict = delivered.verdict.value
    if verdict == "FAIL":
        return ExitCode.FAILED
    open_ends = {"INCONCLUSIVE": arguments.strict, "PENDING": arguments.require_measured}
    return ExitCode.INCONCLUSIVE if open_ends.get(verdict) else ExitCode.OK


def _gate(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.gate.outputs import gate_annotations, gate_text

    result = run_gate_command(arguments, sys.stderr, os.environ)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in gate_annotations(result):
            _tell(line)
    _say(json.dumps(result.to_json()) if arguments.json else gate_text(result))
    return result.verdict.exit_code


def _report(arguments: argparse.Namespace) -> ExitCode:
    reported = run_report(arguments)
    _say(json.dumps(reported.to_json()) if arguments.json else reported.text())
    return ExitCode.OK


def _plan(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.build import examiner_of
    from enginewright.freshness import examine
    from enginewright.summary import plan_json, plan_table

    found = examine(examiner_of(_job(arguments)))
    _say(json.dumps(plan_json(found)) if arguments.json else plan_table(found))
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
    _say(json.dumps(plan_json(found)) if arguments.json else why_text(found))
    return ExitCode.OK


def _gc(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.project import find_project
    from enginewright.store import Store

    store = Store(find_project(_here()).store)
    swept = store.sweep(on_wait=lambda: _tell("waiting for a running build to end"))
    builds = store.builds()
    if arguments.json:
        _say(
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
        _say(
            f"removed {swept.records} step records and {swept.objects} artifacts, {swept.freed_bytes / 2**20:.1f} MiB; kept: {kept}"
        )
    return ExitCode.OK


def _schema(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.recipe import Recipe
    from enginewright.schema import json_schema
    from enginewright.target import Target

    _say(json.dumps(json_schema(Recipe if arguments.kind == "recipe" else Target), indent=2))
    return ExitCode.OK


def _targets(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.abilities import ability
    from enginewright.errors import UsageError
    from enginewright.project import find_project
    from enginewright.target import catalogue, load_targets

    try:
        project = find_project(_here())
    except UsageError:
        project = None  # outside a project there is still the catalogue that comes with enginewright
    found = [(item, ability(item)) for item in load_targets(catalogue(project))]
    if arguments.json:
        listed = [
            {
                "name": item.name,
                "summary": item.summary,
                "backend": item.backend,
                "build": item.build,
                "builds": can.builds,
                "runs": can.runs,
                "why": can.why,
            }
            for item, can in found
        ]
        _say(json.dumps(listed))
    else:
        for item, can in found:
            _say(f"{item.name:<13} {item.backend:<13} {item.summary}\n{'':<13} {can.words}")
    return ExitCode.OK


def _trend(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.named_files import write_named
    from enginewright.trend.history import read_history
    from enginewright.trend.page import render_trends
    from enginewright.trend.trends import trends_json, trends_of, trends_text

    trends = trends_of(read_history(arguments.paths))
    if arguments.output:
        write_named(arguments.output, render_trends(trends).encode("utf-8"))
    _say(json.dumps(trends_json(trends)) if arguments.json else trends_text(trends))
    return ExitCode.OK


def _baseline(arguments: argparse.Namespace) -> ExitCode:
    from enginewright import baselines

    address = baselines.store_address(arguments.store)
    act, verb = {"save": (baselines.save, "saved"), "fetch": (baselines.fetch, "fetched")}[arguments.action]
    bundle = act(arguments.name, arguments.bundle, address)
    if arguments.json:
        _say(json.dumps({"name": arguments.name, "store": address, "sha256": bundle.sha256}))
    else:
        _say(f"{verb} {arguments.name}: {bundle.manifest.name} for {bundle.manifest.target}, sha256 {bundle.sha256}")
    return ExitCode.OK


def _init(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.starter import write_starter

    for path in write_starter(arguments.folder):
        _say(f"wrote {path}")
    _say(f"now: cd {arguments.folder} && enginewright build starter --target cpu")
    return ExitCode.OK


def _doctor(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.doctor import doctor_text, examine_host

    found = examine_host()
    _say(json.dumps(found.to_json()) if arguments.json else doctor_text(found))
    return ExitCode.OK


def _keygen(arguments: argparse.Namespace) -> ExitCode:
    from enginewright_runtime.signing import make_keys

    public, name = make_keys(arguments.file)
    _say(f"wrote {arguments.file}, the private key: keep it where bundles are signed, and nowhere else")
    _say(f"wrote {public}, the public key {name}: give it to every vehicle")
    return ExitCode.OK


def _sign(arguments: argparse.Namespace) -> ExitCode:
    from enginewright.errors import UsageError
    from enginewright_runtime.bundle import sign_bundle

    try:
        signed = sign_bundle(arguments.bundle, arguments.key)
    except OSError as error:
        raise UsageError(f"{arguments.bundle}: cannot be written: {error.strerror}") from None
    _say(f"{signed.path}: signed by the key {signed.signed_by}, sha256 {signed.sha256}")
    return ExitCode.OK


_COMMANDS: Mapping[str, Command] = {
    "build": _build,
    "plan": _plan,
    "why": _why,
    "gate": _gate,
    "report": _report,
    "gc": _gc,
    "schema": _schema,
    "targets": _targets,
    "trend": _trend,
    "baseline": _baseline,
    "init": _init,
    "doctor": _doctor,
    "keygen": _keygen,
    "sign": _sign,
}
