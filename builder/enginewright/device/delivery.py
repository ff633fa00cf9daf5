"""The journey of a bundle: to the device, compiled, evaluated and measured there, and back into dist/."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from enginewright.build import BuildResult, Job
from enginewright.device.address import DeviceAddress
from enginewright.device.connection import WAITS_S, Device, needs_asyncssh
from enginewright.device.environment import make_environment
from enginewright.device.errors import DeviceError, DeviceFailed, DeviceUnfit
from enginewright.device.evaluation import Chunk, Evaluation, open_evaluation
from enginewright.device.job import Jobs, find_place
from enginewright.device.telling import Telling
from enginewright.errors import EnginewrightError, StepCrashed, UsageError
from enginewright.metrics import CONFIDENCE, Score
from enginewright.named_files import write_named
from enginewright.progress import Watch
from enginewright.report import ReportData, render_html, render_markdown
from enginewright.report.bundle_report import report_of_bundle
from enginewright.report.stored import PAGE_NAME
from enginewright.signature import Array
from enginewright_runtime.budget import Finding, Verdict, judge, overall
from enginewright_runtime.bundle import Bundle, read_bundle, write_bundle
from enginewright_runtime.canonical import Json, canonical_bytes, sha256_hex
from enginewright_runtime.errors import BundleError
from enginewright_runtime.evidence import evidence_of
from enginewright_runtime.exit_codes import ExitCode
from enginewright_runtime.manifest import EngineEntry, PendingEngine
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.npz import read_npz

__all__ = ["Delivered", "deliver", "finish", "on_device", "sendable"]

_OF_THE_RUNTIME: dict[int, type[EnginewrightError]] = {
    ExitCode.FAILED: DeviceFailed,
    ExitCode.BUG: StepCrashed,
    ExitCode.INCONCLUSIVE: DeviceUnfit,
}


@dataclass(frozen=True)
class Delivered:
    """What came back: the bundle's file, the engine that the device runs, and what it did there.

    `accuracy` is the recipe's metric on `samples` test samples, judged here on the device's outputs. `report` is what the
    bundle's page shows now.
    """

    address: DeviceAddress
    bundle: Path
    entry: EngineEntry
    size_bytes: int
    measurement: Measurement
    accuracy: Score
    samples: int
    findings: tuple[Finding, ...]
    report: ReportData

    @property
    def verdict(self) -> Verdict:
        return overall(self.findings)


def deliver(job: Job, result: BuildResult, address: DeviceAddress, *, watch: Watch) -> Delivered:
    """Finish what was built on the device at `address`, and put the finished bundle and its reports into dist/.

    Raises DeviceError and its kinds, and BundleError where something else came back; the bundle in dist/ is then the
    one that was built.
    """
    path = result.deliveries["bundle"]
    with ExitStack() as stack:
        evaluation = open_evaluation(job, result, stack)
        telling = Telling(watch, address)
        delivered = asyncio.run(on_device(read_bundle(path), evaluation, address, path, telling=telling))
    write_named(result.deliveries["report_html"], render_html(delivered.report).encode("utf-8"))
    write_named(result.deliveries["report_markdown"], render_markdown(delivered.report).encode("utf-8"))
    return delivered


async def on_device(
    bundle: Bundle,
    evaluation: Evaluation,
    address: DeviceAddress,
    output: Path,
    *,
    telling: Telling,
    sessions: int = 5,
    waits_s: Sequence[float] = WAITS_S,
) -> Delivered:
    """The journey itself, with `sessions` processes that measure, and `waits_s` before each attempt to connect again."""
    needs_asyncssh()
    sent = sendable(bundle)
    telling.begins("connect")
    async with Device(address, say=telling.say, waits_s=waits_s) as device:
        place = await find_place(device)
        telling.say(f"{place.machine}, Python {place.python}, {place.free_bytes / 2**30:.1f} GiB free")
        jobs = Jobs(device, place.root, say=telling.say)
        folder = f"{place.root}/jobs/{bundle.manifest.name}-{bundle.manifest.target}-{sha256_hex(sent)[:12]}"
        finished = f"{folder}/finished.ewb"
        telling.begins("environment")
        backend = _pending_of(bundle).backend
        programs = await make_environment(device, place, backend, jobs=jobs, on_line=lambda line: None)
        runtime = f"{programs}/enginewright-runtime"
        telling.begins("compile")
        telling.say(f"sending {len(sent) / 2**20:.1f} MiB")
        await _send_once(device, sent, folder)
        command = [runtime, "compile", f"{folder}/sent.ewb", "--output", finished, "--sessions", str(sessions)]
        await _make(device, jobs, finished, f"{folder}/compile", command, on_line=telling.say)
        telling.begins("evaluate")
        for number, chunk in enumerate(evaluation.chunks()):
            telling.progress(evaluation.done, evaluation.samples, "samples")
            data = await _run(device, jobs, chunk, number, folder, runtime, evaluation.batch)
            evaluation.take(chunk, _outputs(data, address))
        telling.begins("bring back")
        delivered = finish(bundle, await device.get(finished), evaluation, address, output)
        await device.run(["rm", "-rf", folder])  # what it held is here now, and the next build measures anew
        telling.ends()
    return delivered


def sendable(bundle: Bundle) -> bytes:
    """The bundle with an engine that is pending: where the device is not like the one that the engine is for, or is, it
    compiles its own from the same network.
    """
    if bundle.manifest.pending:
        return bytes(bundle.data)
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        path = Path(folder) / "sent.ewb"
        files = {name: bundle.read(name) for name in bundle.contents}
        write_bundle(path, replace(bundle.manifest, pending=(_pending_of(bundle),)), files)
        return path.read_bytes()


def _pending_of(bundle: Bundle) -> PendingEngine:
    if bundle.manifest.pending:
        return bundle.manifest.pending[0]
    entry = bundle.manifest.engines[0]
    return PendingEngine(entry.backend, entry.settings, {})


async def _send_once(device: Device, sent: bytes, folder: str) -> None:
    """The folder's name has the bundle's digest, and a file has its name when it is whole."""
    await device.run(["mkdir", "-p", folder])
    if not await _is_there(device, f"{folder}/sent.ewb"):
        await device.put(sent, f"{folder}/sent.ewb")


async def _run(device: Device, jobs: Jobs, chunk: Chunk, number: int, folder: str, runtime: str, batch: int) -> bytes:
    """The outputs of one chunk, as an npz. What an attempt before has run is not run again."""
    place = f"{folder}/chunk-{number}-{sha256_hex(chunk.inputs)[:12]}"
    outputs = f"{place}/outputs.npz"
    if not await _is_there(device, outputs):
        await device.run(["mkdir", "-p", place])
        await device.put(chunk.inputs, f"{place}/inputs.npz")
        command = [runtime, "run", f"{folder}/finished.ewb", "--input", f"{place}/inputs.npz", "--output", outputs]
        await _make(device, jobs, outputs, place, [*command, "--batch", str(batch)], on_line=lambda line: None)
        await device.run(["rm", "-f", f"{place}/inputs.npz"])
    return await device.get(outputs)


def _outputs(data: bytes, address: DeviceAddress) -> dict[str, Array]:
    try:
        return read_npz(data)
    except ValueError as error:
        raise DeviceFailed(f"{address} gave outputs that cannot be read: {error}") from None


async def _make(
    device: Device, jobs: Jobs, made: str, folder: str, command: Sequence[str], *, on_line: Callable[[str], None]
) -> None:
    """Run the runtime until there is the file `made`. Its exit code does not tell: a bundle that misses its budgets was
    finished, too, and gets its verdict here.

    Raises what the exit code means, with the runtime's own words.
    """
    if await _is_there(device, made):
        return
    ended = await jobs.run(folder, command, on_line=on_line)
    if await _is_there(device, made):
        return
    said = "\n".join(f"  {line}" for line in (*ended.out.splitlines(), *ended.log[-20:]))
    kind = _OF_THE_RUNTIME.get(ended.code, DeviceError)
    raise kind(f"it failed on {device.address}:\n{said}", hint="the bundle in dist/ is as it was built")


async def _is_there(device: Device, path: str) -> bool:
    return (await device.run(["test", "-e", path]))[0] == 0


def finish(bundle: Bundle, data: bytes, evaluation: Evaluation, address: DeviceAddress, output: Path) -> Delivered:
    """Verify what came back, add the accuracy that was evaluated, judge the budgets, and write it to `output`, with a page
    that shows all of it.

    Raises BundleError where it is not the bundle that was sent, with an engine more.
    """
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        path = Path(folder) / "finished.ewb"
        path.write_bytes(data)
        back = read_bundle(path)
    entry = _entry(bundle, back, address)
    measurement = Measurement.from_bytes(
        back.read(entry.measurement_path), source=f"{address}: {entry.measurement_path}"
    )
    score = evaluation.score()
    accuracy = {"reference": bundle.manifest.accuracy["reference"], "engine": score.value}
    evaluated: dict[str, Json] = {
        "format": 1,
        "metric": evaluation.metric.name,
        "samples": evaluation.done,
        "accuracy": score.value,
    }
    evaluated |= {"interval": list(score.interval) if score.interval else None, "confidence": CONFIDENCE}
    # Taken with this engine on the computer that built it: the device has a measurement of its own.
    elsewhere = f"measurements/{entry.fingerprint}.evicted.json"
    files = {name: back.read(name) for name in back.contents if name != elsewhere}
    files[f"evaluations/{entry.fingerprint}.json"] = canonical_bytes(evaluated)
    manifest = replace(back.manifest, accuracy=accuracy)
    now = {name: memoryview(content) for name, content in files.items()}
    report = report_of_bundle(replace(back, path=output, manifest=manifest, contents=now))
    files[PAGE_NAME] = render_html(report).encode("utf-8")
    size_bytes = manifest.files[entry.path].size
    findings = judge(manifest.budget, evidence_of(manifest, measurement, size_bytes=size_bytes))
    try:
        write_bundle(output, manifest, files)
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror}", hint="make room or let it be written, and build again"
        ) from None
    return Delivered(address, output, entry, size_bytes, measurement, score, evaluation.done, findings, report)


def _entry(bundle: Bundle, back: Bundle, address: DeviceAddress) -> EngineEntry:
    """The engine that the device compiled or chose: `compile` puts it last."""
    kept = {name: entry for name, entry in bundle.manifest.files.items() if not name.startswith("measurements/")}
    altered = [name for name, entry in kept.items() if back.manifest.files.get(name) != entry]
    if altered or not back.manifest.engines or back.manifest.budget != bundle.manifest.budget:
        raise BundleError(
            f"{address} gave back another bundle than it got: {', '.join(altered) or 'its manifest'} differs",
            hint="nothing was kept of it; build again, and look after the device where that happens twice",
        )
    return back.manifest.engines[-1]
