"""The command line: ``enginewright-runtime verify|info|run|bench|compile BUNDLE``. The only module that prints and exits."""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginewright_runtime import __version__
from enginewright_runtime.atomic import write_file
from enginewright_runtime.backends import Array, backend
from enginewright_runtime.budget import Evidence, Finding, judge, overall
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.canonical import Json, canonical_bytes
from enginewright_runtime.errors import EnginewrightError, InputError, NotEnoughSamples
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.finishing import finish_bundle
from enginewright_runtime.golden import OutputAgreement, one_sample, read_golden
from enginewright_runtime.manifest import EngineEntry, Manifest, PendingEngine
from enginewright_runtime.measure import EngineToMeasure, Measurement, measure
from enginewright_runtime.measurement import Protocol, pooled_ns
from enginewright_runtime.npz import read_npz, write_npz
from enginewright_runtime.session import fitting_engine, open_bundle
from enginewright_runtime.stats import percentile
from enginewright_runtime.tensorrt.gpu_time import trtexec_percentile

_PERCENTS = (50.0, 99.0, 99.9)


@dataclass(frozen=True)
class Answer:
    """What a command found: its exit code, the object for --json, and the lines for people."""

    code: ExitCode
    json: dict[str, Json]
    lines: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    commands = {"verify": _verify, "info": _info, "run": _run, "bench": _bench, "compile": _compile}
    try:
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
        "bench": "measure the latency in fresh processes and judge it against the bundle's budgets",
        "compile": "on the device: compile the engine that is pending, check and measure it, and write it into the bundle",
    }.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.add_argument("bundle", type=Path, metavar="BUNDLE")
        command.add_argument("--json", action="store_true", help="one JSON object on standard output")
        if name == "run":
            command.add_argument("--input", type=Path, metavar="X.npz", help="arrays by the inputs' names")
            command.add_argument("--output", type=Path, metavar="Y.npz", help="where to write the outputs")
        if name == "bench":
            command.add_argument("--sessions", type=_positive, default=5, help="how many fresh processes (%(default)s)")
            command.add_argument(
                "--caches",
                choices=("warm", "evicted"),
                default="warm",
                help="how each inference finds the processor's caches; budgets are of warm ones (%(default)s)",
            )
            command.add_argument("--output", type=Path, metavar="M.json", help="where to write all raw samples")
        if name == "compile":
            command.add_argument("--sessions", type=_positive, default=5, help="how many fresh processes (%(default)s)")
            command.add_argument("--output", type=Path, metavar="B.ewb", help="where to write (default: the same file)")
    return parser


def _verify(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle)
    size = options.bundle.stat().st_size
    found: dict[str, Json] = {"bundle": str(bundle.path), "sha256": bundle.sha256, "size_bytes": size, "verified": True}
    files = len(bundle.manifest.files)
    return Answer(ExitCode.OK, found, [f"{bundle.path}: verified, {files} files, {size} bytes, sha256 {bundle.sha256}"])


def _info(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle)
    misfits = {engine.fingerprint: _misfit(engine) for engine in bundle.manifest.engines}
    found: dict[str, Json] = {
        "bundle": str(bundle.path),
        "sha256": bundle.sha256,
        "manifest": bundle.manifest.to_json(),
        "misfits": misfits,
    }
    return Answer(ExitCode.OK, found, _info_lines(bundle, misfits))


def _run(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle)
    golden = None if options.input else read_golden(bundle)
    inputs = golden.inputs if golden else _read_inputs(options.input)
    with open_bundle(bundle) as session:
        fingerprint = session.entry.fingerprint
        outputs = session.run(inputs)
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
    lines += [_agreement_line(output) for output in compared] or [_array_line(*output) for output in outputs.items()]
    return Answer(ExitCode.FAILED if agrees is False else ExitCode.OK, found, lines)


def _bench(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle)
    entry = fitting_engine(bundle)
    inputs = one_sample(read_golden(bundle).inputs, bundle.manifest.inputs)
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        path = Path(folder) / "engine"
        path.write_bytes(bundle.read(entry.path))
        engine = EngineToMeasure(path, entry.backend, entry.settings)
        measurement = measure(
            {"engine": engine}, inputs, sessions=options.sessions, caches=options.caches, on_progress=_progress
        )
    if options.output:
        _write(options.output, measurement.to_bytes())
    if options.caches == "evicted":
        return _bench_answer(bundle, entry, measurement, None)
    findings = judge(bundle.manifest.budget, _evidence(bundle.manifest, entry, measurement))
    return _bench_answer(bundle, entry, measurement, findings)


def _compile(options: argparse.Namespace) -> Answer:
    bundle = read_bundle(options.bundle)
    output = options.output or options.bundle
    finished = finish_bundle(bundle, output, sessions=options.sessions, on_phase=_phase, on_progress=_progress)
    made = "compiled" if finished.compiled else "was there already"
    lines = [f"{bundle.manifest.name} on {finished.entry.fingerprint}: {made}, {finished.size_bytes} bytes"]
    lines += [f"  warning: {warning}" for warning in finished.warnings]
    if finished.layers:
        integer, reformats = (
            sum(one.precision == "int8" for one in finished.layers),
            sum(one.reformat for one in finished.layers),
        )
        lines.append(f"  {len(finished.layers)} layers, of them {integer} int8 and {reformats} that only reformat")
    if finished.on_gpu is not None:
        median = trtexec_percentile(finished.on_gpu.compute_ns, 50)
        lines.append(f"  GPU time {median / 1e6:.4g} ms at the median, taken as trtexec does without a CUDA graph")
        lines += [f"  warning: {warning}" for warning in finished.on_gpu.warnings()]
    lines += [_agreement_line(agreement) for agreement in finished.agreements]
    if finished.measurement is None:
        found: dict[str, Json] = {"bundle": str(output), "engine": finished.entry.fingerprint, "agrees": False}
        return Answer(ExitCode.FAILED, found, [*lines, "nothing was measured, and the bundle is as it was"])
    # The size and the agreements are those of the engine that was just written; its entry is in the new bundle.
    measured = _bench_answer(read_bundle(output), finished.entry, finished.measurement, finished.findings)
    whole = {**measured.json, "compiled": finished.compiled, "agrees": True, "warnings": list(finished.warnings)}
    return Answer(measured.code, whole, [*lines, *measured.lines, f"wrote {output}"])


def _bench_answer(
    bundle: Bundle, entry: EngineEntry, measurement: Measurement, findings: Sequence[Finding] | None
) -> Answer:
    """`findings` are None where the measurement is none that budgets are judged by."""
    verdict = None if findings is None else overall(findings)
    pooled = pooled_ns("engine", measurement)
    percentiles: dict[str, float | None] = {}
    processes = f"{len(measurement.sessions)} fresh processes"
    lines = [f"{bundle.manifest.name} on {entry.fingerprint}: {len(pooled)} inferences in {processes}"]
    for percent in _PERCENTS:
        try:
            percentiles[f"p{percent:g}"] = value = percentile(pooled, percent)
            lines.append(f"  p{percent:<5g} {value / 1e6:.4g} ms")
        except NotEnoughSamples as error:
            percentiles[f"p{percent:g}"] = None
            lines.append(f"  {error.message}")
    protocol = measurement.protocol
    lines.append(
        f"  threads {protocol.threads['engine']}, {_caches(protocol)}, {protocol.clock} clock, "
        f"peak memory {measurement.peak_rss_bytes('engine') / (1 << 20):.1f} MiB with the libraries"
    )
    unsettled = sum(not session.warm_up["engine"].settled for session in measurement.sessions)
    if unsettled:
        lines.append(f"  in {unsettled} of the processes the latency never became steady while warming up")
    lines += [f"{finding.verdict.value:12} {finding.sentence}" for finding in findings or ()]
    lines.append(_verdict_line(findings))
    found: dict[str, Json] = {
        "bundle": str(bundle.path),
        "engine": entry.fingerprint,
        "verdict": verdict.value if verdict else None,
        "findings": [finding.to_json() for finding in findings or ()],
        "samples": len(pooled),
        "latency_ns": percentiles,
        "peak_rss_bytes": measurement.peak_rss_bytes("engine"),
        "size_bytes": bundle.manifest.files[entry.path].size,
        "protocol": protocol.to_json(),
        "host": measurement.host,
    }
    return Answer(verdict.exit_code if verdict else ExitCode.OK, found, lines)


def _verdict_line(findings: Sequence[Finding] | None) -> str:
    if findings is None:
        return "no verdict: budgets are judged with warm caches"
    return f"verdict: {overall(findings).value}" if findings else "verdict: PASS, for the bundle demands nothing"


def _caches(protocol: Protocol) -> str:
    if protocol.caches == "warm":
        return "caches warm"
    return f"caches evicted by {protocol.evicted_bytes / (1 << 20):.0f} MiB before each inference"


def _evidence(manifest: Manifest, entry: EngineEntry, measurement: Measurement) -> Evidence:
    """The latency, the size and the memory as found here; the accuracy as evaluated when the bundle was built."""
    accuracy = manifest.accuracy
    known = {"reference", "engine"} <= accuracy.keys()
    bounded = {"drop_low", "drop_high"} <= accuracy.keys()
    return Evidence(
        sessions_ns=measurement.sessions_ns("engine"),
        size_bytes=manifest.files[entry.path].size,
        peak_memory_bytes=measurement.peak_rss_bytes("engine"),
        accuracy_drop=accuracy["reference"] - accuracy["engine"] if known else None,
        accuracy_drop_interval=(accuracy["drop_low"], accuracy["drop_high"]) if bounded else None,
    )


def _misfit(engine: EngineEntry) -> str:
    try:
        return backend(engine.backend).misfit(engine.requires)
    except EnginewrightError as error:
        return error.message


def _info_lines(bundle: Bundle, misfits: dict[str, str]) -> list[str]:
    manifest = bundle.manifest
    rows = [("bundle", f"{manifest.name} for {manifest.target}, format {manifest.format}"), ("sha256", bundle.sha256)]
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


def _agreement_line(output: OutputAgreement) -> str:
    word = "agrees with" if output.agrees else "DIFFERS from"
    return (
        f"  {output.name} {word} the golden output: off by {output.largest_difference:.3g} at most, "
        f"{output.tolerance:.3g} allowed"
    )


def _array_line(name: str, array: Array) -> str:
    if not array.size:
        return f"  {name}: {array.dtype} {list(array.shape)}, empty"
    low, high = float(np.min(array)), float(np.max(array))
    return f"  {name}: {array.dtype} {list(array.shape)}, from {low:.4g} to {high:.4g}"


def _progress(done: int, sessions: int) -> None:
    print(f"session {done} of {sessions}", file=sys.stderr)


def _phase(phase: str) -> None:
    print(phase, file=sys.stderr)


def _complain(message: str) -> None:
    print(f"enginewright-runtime: {message}", file=sys.stderr)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 was expected, got {text!r}")
    return int(text)
