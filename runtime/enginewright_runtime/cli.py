"""The command line: ``enginewright-runtime verify|info|run|check|bench|watch|compile BUNDLE`` and
``install|rollback|status|list --root DIR``. The only module that prints and exits.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enginewright_runtime import __version__
from enginewright_runtime.answer import Answer
from enginewright_runtime.atomic import write_file
from enginewright_runtime.backends import Array, backend
from enginewright_runtime.bench.check import agreement_line, check, check_answer
from enginewright_runtime.bench.command import add_bench_options, run_bench
from enginewright_runtime.bench.sensors import Sensors
from enginewright_runtime.bench.subject import subject
from enginewright_runtime.budget import Finding, Verdict
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.canonical import Json, canonical_bytes
from enginewright_runtime.compile_command import add_compile_options, run_compile
from enginewright_runtime.device_needs import meant_power_mode
from enginewright_runtime.errors import EnginewrightError, InputError
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.golden import OutputAgreement, read_golden
from enginewright_runtime.in_batches import run_in_batches
from enginewright_runtime.installation.commands import COMMANDS, HELP, add_arguments
from enginewright_runtime.interruptible import ends_in_order
from enginewright_runtime.manifest import EngineEntry, PendingEngine
from enginewright_runtime.npz import read_npz, write_npz
from enginewright_runtime.option_types import positive, positive_number
from enginewright_runtime.progress_lines import ProgressLines
from enginewright_runtime.session import open_bundle
from enginewright_runtime.watch.command import add_watch_options, run_watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    commands = {"verify": _verify, "info": _info, "run": _run, "check": _check, "bench": _bench, "watch": run_watch}
    commands |= {"compile": _compile, **dict.fromkeys(COMMANDS, _installing)}
    try:
        with ends_in_order():
            answer = commands[options.command](options)
    except EnginewrightError as error:
        _complain(str(error))
        answer = Answer(error.exit_code, {"error": error.message, "hint": error.hint}, ())
    except KeyboardInterrupt:
        _complain("interrupted")
        return ExitCode.INTERRUPTED
    except Exception:
        traceback.print_exc()
        _complain(f"this is a bug in enginewright-runtime {__version__}; please report it with the lines above")
        return ExitCode.BUG
    lines = [canonical_bytes(answer.json).decode("utf-8")] if options.json else answer.lines
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` perhaps, has seen enough; the interpreter's own flush at its end must not fail on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return answer.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="enginewright-runtime", description="Verify, run and measure bundles (.ewb).")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in {
        "verify": "check every byte of a bundle against its digests",
        "info": "show what a bundle holds, and which of its engines runs here",
        "run": "run the golden inputs and compare, or run inputs of your own",
        "check": "compare the golden outputs and judge the budgets, with as many samples as that takes",
        "bench": "measure the latency in fresh processes and judge it against the budgets, or ask another question",
        "watch": "run at a rate and judge the latency all the time: JSON lines, and figures for Prometheus",
        "compile": "on the device: compile the engine that is pending, check and measure it, and write it into the bundle",
    }.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.add_argument("bundle", type=Path, metavar="BUNDLE")
        command.add_argument("--key", type=Path, metavar="PUBLIC", help="the public key that must have signed it")
        if name == "watch":  # which writes JSON in any case, a line for every judgement
            command.set_defaults(json=False)
            add_watch_options(command)
            continue
        command.add_argument("--json", action="store_true", help="one JSON object on standard output")
        if name == "run":
            command.add_argument("--input", type=Path, metavar="X.npz", help="arrays by the inputs' names")
            command.add_argument("--output", type=Path, metavar="Y.npz", help="where to write the outputs")
            command.add_argument("--batch", type=positive, metavar="N", help="run the samples of X.npz N at a time")
        if name == "check":
            command.add_argument(
                "--max-seconds", type=positive_number, default=300.0, help="when to give up (%(default)g)"
            )
            command.add_argument("--output", type=Path, metavar="M.json", help="where to write all raw samples")
        if name == "bench":
            add_bench_options(command)
        if name == "compile":
            add_compile_options(command)
    for name, help_text in HELP.items():
        add_arguments(commands.add_parser(name, help=help_text, description=help_text), name)
    return parser


def _installing(options: argparse.Namespace) -> Answer:
    return COMMANDS[options.command](options, lambda step: print(step, file=sys.stderr))


def _verify(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle, require_key=options.key)
    size = options.bundle.stat().st_size
    found: dict[str, Json] = {"bundle": str(bundle.path), "sha256": bundle.sha256, "size_bytes": size, "verified": True}
    found |= {"signed_by": bundle.signed_by, "signature_verified": options.key is not None}
    files = len(bundle.manifest.files)
    lines = [f"{bundle.path}: verified, {files} files, {size} bytes, sha256 {bundle.sha256}"]
    if options.key:
        lines.append(f"signed by the key {bundle.signed_by}, which {options.key} is")
    elif bundle.signed_by:
        lines.append(f"its signature, which claims the key {bundle.signed_by}, was not checked: --key PUBLIC does that")
    return Answer(ExitCode.OK, found, lines)


def _info(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle, require_key=options.key)
    misfits = {engine.fingerprint: _misfit(engine) for engine in bundle.manifest.engines}
    found: dict[str, Json] = {
        "bundle": str(bundle.path),
        "sha256": bundle.sha256,
        "manifest": bundle.manifest.to_json(),
        "misfits": misfits,
    }
    return Answer(ExitCode.OK, found, _info_lines(bundle, misfits))


def _run(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle, require_key=options.key)
    golden = None if options.input else read_golden(bundle)
    inputs = golden.inputs if golden else _read_inputs(options.input)
    with open_bundle(bundle) as session:
        fingerprint = session.entry.fingerprint
        outputs = run_in_batches(session, inputs, options.batch) if options.batch else session.run(inputs)
    if options.output:
        _write(options.output, write_npz(outputs))
    compared = golden.compare(outputs) if golden else ()
    agrees = all(output.agrees for output in compared) if golden else None
    found: dict[str, Json] = {
        "bundle": str(bundle.path),
        "engine": fingerprint,
        "agrees": agrees,
        "outputs": [_output_json(name, array, compared) for name, array in outputs.items()],
        "output": str(options.output) if options.output else None,
    }
    lines = [f"ran {bundle.manifest.name} on {fingerprint}"]
    lines += [agreement_line(output) for output in compared] or [_array_line(*output) for output in outputs.items()]
    return Answer(ExitCode.FAILED if agrees is False else ExitCode.OK, found, lines)


def _bench(options: argparse.Namespace) -> Answer:
    answer, raw = run_bench(options, _progress)
    if options.output:
        _write(options.output, raw)
    return answer


def _check(options: argparse.Namespace) -> Answer:
    with subject(read_bundle(options.bundle, require_key=options.key)) as checked:
        sensors = Sensors(meant=meant_power_mode(checked.bundle.manifest))
        found = check(checked, max_seconds=options.max_seconds, on_progress=_check_progress)
    if options.output and found.measurement:
        _write(options.output, found.measurement.to_bytes())
    return sensors.told_in(check_answer(checked, found, max_seconds=options.max_seconds))


def _compile(options: argparse.Namespace) -> Answer:
    lines = ProgressLines(sys.stderr)
    try:
        return run_compile(options, on_phase=lines, on_progress=_progress)
    finally:
        lines.end()


def _misfit(engine: EngineEntry) -> str:
    try:
        return backend(engine.backend).misfit(engine.requires)
    except EnginewrightError as error:
        return error.message


def _info_lines(bundle: Bundle, misfits: dict[str, str]) -> list[str]:
    manifest = bundle.manifest
    rows = [("bundle", f"{manifest.name} for {manifest.target}, format {manifest.format}"), ("sha256", bundle.sha256)]
    rows += [("sequence", str(manifest.sequence))] if manifest.sequence else []
    rows += [("input", str(spec)) for spec in manifest.inputs]
    rows += [("output", str(spec)) for spec in manifest.outputs]
    rows += [("budget", f"{name} {limit:g}") for name, limit in manifest.budget.items()]
    rows += [("accuracy", f"{name} {share:.4g}") for name, share in manifest.accuracy.items()]
    rows += [("engine", f"{name}: {misfit or 'runs here'}") for name, misfit in misfits.items()]
    rows += [
        ("pending", f"{engine.backend}, on {_needs(engine)}: enginewright-runtime compile")
        for engine in manifest.pending
    ]
    rows += [] if misfits or manifest.pending else [("engine", "none")]
    rows += [("version", f"{name} {version}") for name, version in manifest.versions.items()]
    rows += [("step", f"{step.name} {step.key}") for step in manifest.steps]
    rows += [("file", f"{name}, {entry.size} bytes") for name, entry in manifest.files.items()]
    return [f"{label:9} {text}" for label, text in rows]


def _needs(engine: PendingEngine) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in engine.requires.items()) or "any device"


def _read_inputs(path: Path) -> dict[str, Array]:
    try:
        return read_npz(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise EnginewrightError(f"{path}: cannot be written: {error.strerror}") from None


def _output_json(name: str, array: Array, compared: Sequence[OutputAgreement]) -> dict[str, Json]:
    found: dict[str, Json] = {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
    for output in compared:
        if output.name == name:
            finite = math.isfinite(output.largest_difference)
            found |= {
                "agrees": output.agrees,
                "largest_difference": output.largest_difference if finite else None,
                "tolerance": output.tolerance,
            }
    return found


def _array_line(name: str, array: Array) -> str:
    if not array.size:
        return f"  {name}: {array.dtype} {list(array.shape)}, empty"
    low, high = float(np.min(array)), float(np.max(array))
    return f"  {name}: {array.dtype} {list(array.shape)}, from {low:.4g} to {high:.4g}"


def _check_progress(done: int, most: int, findings: Sequence[Finding]) -> None:
    open_ = ", ".join(finding.name for finding in findings if finding.verdict is Verdict.INCONCLUSIVE)
    print(f"session {done} of at most {most}{f'; open: {open_}' if open_ else ''}", file=sys.stderr)


def _progress(what: str, done: int, total: int) -> None:
    print(f"{what} {done} of {total}", file=sys.stderr)


def _complain(message: str) -> None:
    print(f"enginewright-runtime: {message}", file=sys.stderr)
