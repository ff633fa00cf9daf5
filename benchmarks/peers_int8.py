"""int8 by others and by enginewright, on the same float ONNX and the same calibration images, in one table.

    python benchmarks/peers_int8.py [RECIPE] [--target cpu] [--sessions 12] [--environments FOLDER] [--openvino]

Run it after a build of the recipe. The first time it installs each peer into an environment of its own, with the
versions that benchmarks/peers/*.txt pin (they want Python 3.11 or newer): 3.5 GB in all where pip gets the CPU build of
torch, and more where it gets one for CUDA. That is why `python -m benchmarks` leaves it out. A peer that cannot be
installed or that fails is a row that says so.

Protocol: every peer quantizes the float network that the build exported, on the samples that the build calibrates
with. Every file is compiled and run by the target's backend, one version for all, with the settings of the float
engine; enginewright's own with those of its dialect. Accuracy is that of the very engines that are measured, on the
whole test split; its change is against float, with the 95 % interval of the paired difference. Latency: batch 1, one
thread; every session has a fresh process for each engine, warmed up until its median is steady. With warm caches: 40
rounds in random order of 5 timed inferences each, the first after a switch dropped. With evicted caches, in sessions of
their own: 40 rounds of one timed inference each, before which the process drives its data out of the caches. A
session's figure is the ratio of the medians to float's; the median over the sessions and their range are printed.

The last but one column says what TensorRT-RTX makes of the file for compute capability 8.6 (no GPU is needed);
enginewright writes it in the dialect of TensorRT for that. With --openvino, OpenVINO runs the same files, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from peer_environments import PEERS, PeerFailed, quantize_with
from side_by_side import (
    Accuracy,
    Built,
    Clock,
    accuracies,
    already_built,
    build_up_to,
    protocol_line,
    speed_up,
    split_of,
)

from enginewright import __version__
from enginewright.build import Job, prepare
from enginewright.calibration_samples import share_out
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.layers import layers
from enginewright.graph.qdq import quantize
from enginewright.graph.ranges import Scales
from enginewright.hosts import host_facts
from enginewright.plan import OutputOf, make_plan
from enginewright.project import find_project
from enginewright.sources import gather_sources
from enginewright_runtime.backends import BACKENDS, Array, backend
from enginewright_runtime.caches import Caches
from enginewright_runtime.canonical import Json
from enginewright_runtime.errors import EnginewrightError
from enginewright_runtime.measure import EngineToMeasure, Measurement, measure
from enginewright_runtime.measurement import pooled_ns

FLOAT, OPENVINO = "float", "openvino"
CHUNKS: Mapping[Caches, int] = {"warm": 5, "evicted": 1}  # timed inferences in a round
_CHECK = Path(__file__).with_name("tensorrt_check.py")


@dataclass
class Entry:
    """One row: whose file it is, what came of it, and what is worth saying.

    `model` is the ONNX file, None where there is none; `engines` are by backend. `for_tensorrt` is the file that
    TensorRT would get, where it is another one. `failures` say why there is no figure, by backend, or by "" where there
    is no file.
    """

    who: str
    version: str
    model: bytes | None = None
    engines: dict[str, EngineToMeasure] = field(default_factory=dict)
    for_tensorrt: bytes | None = None
    remark: str = ""
    failures: dict[str, str] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="signs")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--environments", type=Path, default=_cache() / "enginewright" / "peers")
    parser.add_argument("--openvino", action="store_true")
    arguments = parser.parse_args()
    job = prepare(find_project(Path.cwd()), arguments.recipe, arguments.target, settings={})
    built = already_built(job, "compile")
    if built is None or not any(step.KEY == "quantize" for step in job.recipe.compress):
        print(f"build first, with a step quantize: enginewright build {arguments.recipe} --target {arguments.target}")
        return 1
    if arguments.openvino and OPENVINO not in BACKENDS:
        print("this runtime has no backend openvino: run without --openvino")
        return 1
    alone = build_up_to(_int8_alone(job), "compile")
    samples = _calibration_samples(alone)
    entries = [
        _float(built),
        *_peers(built.path(OutputOf("reference/simplify", "network")), samples, arguments.environments),
        _ours("enginewright, int8 alone", alone),
        _ours(f"enginewright, the recipe {arguments.recipe}", built),
    ]
    with tempfile.TemporaryDirectory(prefix="enginewright-peers-") as folder:
        plain = built.engine("reference/compile")
        trial = _first(built, samples, 2)  # more than one, so that a batch that a peer has fixed is seen
        for index, entry in enumerate(entries):
            _compile(entry, plain, Path(folder) / str(index), trial, openvino=arguments.openvino)
        engines = {f"{entry.who}|{name}": item for entry in entries for name, item in entry.engines.items()}
        reference = f"{FLOAT}|{plain.backend}"
        _tell(f"evaluating {len(engines)} engines")
        judged = accuracies(engines, job, reference=reference)
        camera = _first(built, samples, 1)
        measured = [
            measure(
                engines, camera, sessions=arguments.sessions, chunk=chunk, seed=1, caches=caches, on_progress=_session
            )
            for caches, chunk in CHUNKS.items()
        ]
        verdicts = {entry.who: _tensorrt(entry, Path(folder)) for entry in entries}
    _print_table(entries, plain.backend, judged, measured, verdicts, openvino=arguments.openvino)
    run_by = " ".join(backend(plain.backend).requires().get(name, "") for name in (plain.backend, "instructions"))
    print(
        f"{job.recipe.name}, {len(next(iter(samples.values())))} calibration samples; run by {plain.backend} {run_by}"
    )
    for measurement in measured:
        print(protocol_line(measurement))
    return 0


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _session(done: int, total: int) -> None:
    _tell(f"session {done} of {total}")


def _int8_alone(job: Job) -> Job:
    """The same recipe with nothing but its step `quantize`."""
    recipe = replace(job.recipe, compress=tuple(step for step in job.recipe.compress if step.KEY == "quantize"))
    plan = make_plan(
        recipe,
        job.target,
        sources=gather_sources(recipe, job.project, target=job.target.name),
        host=host_facts(job.target),
    )
    return replace(job, recipe=recipe, plan=plan)


def _calibration_samples(built: Built) -> dict[str, Array]:
    """The samples that the step `calibrate` observes, in its order."""
    parameters = built.job.plan.step("calibrate").parameters
    wanted = parameters["samples"]
    assert isinstance(wanted, int)
    split = split_of(built.job, "calibrate", "calibration")
    order = share_out(split, wanted, hold_back=parameters["method"] == "auto").observed
    batches = [batch.inputs for batch in split.batches(split.signature.batch_size(64), order=order)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _first(built: Built, samples: Mapping[str, Array], count: int) -> dict[str, Array]:
    """So many samples, or the network's own batch where that is fixed."""
    size = split_of(built.job, "reference/evaluate", "test").signature.batch_size(count)
    return {name: values[:size] for name, values in samples.items()}


def _peers(network: Path, samples: Mapping[str, Array], environments: Path) -> Iterator[Entry]:
    for peer in PEERS:
        entry = Entry(peer.name, peer.version)
        try:
            _tell(f"{peer.name} quantizes")
            entry.model = quantize_with(peer, network, samples, environments=environments.absolute())
            bits, remark = describe(onnx.load_from_string(entry.model))
            entry.remark = f"{remark}; 7 were asked for" if peer.asks_for_7_bits and bits > 7 else remark
        except PeerFailed as error:
            entry.failures[""] = str(error)
        yield entry


def _float(built: Built) -> Entry:
    engine = built.engine("reference/compile")
    return Entry(FLOAT, "", built.input_of("reference/compile", "network").read_bytes(), {engine.backend: engine})


def _ours(who: str, built: Built) -> Entry:
    """What a build made, and the same ranges in the dialect of TensorRT."""
    model, engine = built.input_of("compile", "network").read_bytes(), built.engine("compile")
    quantizing = built.job.plan.step("quantize")
    kept = quantizing.parameters["keep_float"]
    assert isinstance(kept, list)
    for_tensorrt = quantize(
        onnx.load(built.input_of("quantize", "network")),
        Scales.from_json(built.json(quantizing.inputs["scales"])),
        DIALECTS["tensorrt"],
        keep_float=[str(name) for name in kept],
    )
    return Entry(
        who,
        __version__,
        model,
        {engine.backend: engine},
        for_tensorrt.SerializeToString(),
        describe(onnx.load_from_string(model))[1],
    )


def describe(model: onnx.ModelProto) -> tuple[int, str]:
    """The bits of the widest weights, and how the network is quantized, from the file itself."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    activations: set[str] = set()
    bits = weights = 0
    for node in model.graph.node:
        value, zero = constants.get(node.input[0]), constants.get(node.input[2]) if len(node.input) > 2 else None
        if node.op_type == "QuantizeLinear" and value is None:
            activations.add(onnx.TensorProto.DataType.Name(zero.data_type).lower() if zero is not None else "uint8")
        elif node.op_type == "QuantizeLinear":
            bits, weights = 8, weights + 1  # quantized from float when it is loaded, to the whole range
        elif node.op_type == "DequantizeLinear" and value is not None and len(value.dims) > 1:
            largest = int(np.abs(numpy_helper.to_array(value).astype(np.int64)).max())
            bits, weights = max(bits, 7 if largest <= 64 else 8), weights + 1
    if not weights:
        return 0, "all in float"
    total = len(layers(model))
    return bits, f"{' and '.join(sorted(activations))} x {bits}-bit weights, {weights} of {total} layers"


def _compile(entry: Entry, plain: EngineToMeasure, path: Path, inputs: Mapping[str, Array], *, openvino: bool) -> None:
    """Fill in the engines that no build has made, each tried on `inputs`; `plain` says how float networks are compiled."""
    if entry.model is None:
        return
    wanted = {plain.backend: plain.settings}
    if openvino:
        wanted[OPENVINO] = {"threads": plain.settings.get("threads", 1)}
    for name, settings in wanted.items():
        try:
            if name not in entry.engines:
                entry.engines[name] = _compiled(entry.model, name, settings, path.with_suffix(f".{name}"), inputs)
        except EnginewrightError as error:
            entry.failures[name] = error.message


def _compiled(
    model: bytes, name: str, settings: Mapping[str, Json], path: Path, inputs: Mapping[str, Array]
) -> EngineToMeasure:
    """Compile, and run once: an engine that does not run must not end the measurement of all others."""
    path.write_bytes(backend(name).compile(model, settings))
    with closing(backend(name).open(path.read_bytes(), settings)) as engine:
        engine.run(inputs)
    return EngineToMeasure(path, name, settings)


def _tensorrt(entry: Entry, folder: Path) -> str:
    """In a process of its own: what parses files in native code may crash."""
    model = entry.for_tensorrt or entry.model
    if model is None:
        return ""
    path = folder / "network.onnx"
    path.write_bytes(model)
    done = subprocess.run([sys.executable, _CHECK, path], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"the check ended with exit code {done.returncode}"


def _print_table(
    entries: Sequence[Entry],
    name: str,
    judged: Mapping[str, Accuracy],
    measured: Sequence[Measurement],
    verdicts: Mapping[str, str],
    *,
    openvino: bool,
) -> None:
    """Print it, with long sentences below it by number. `name` is the backend that all figures but OpenVINO's are of."""
    reference = f"{FLOAT}|{name}"
    notes: list[str] = []

    def noted(text: str) -> str:
        short, _, rest = text.partition(": ")
        if not rest:
            return text
        if rest not in notes:
            notes.append(rest)
        return f"{short} [{notes.index(rest) + 1}]"

    warm, evicted = measured

    def times(label: str, clock: Clock, measurement: Measurement = warm) -> str:
        return str(speed_up(measurement, label, reference=reference, clock=clock))

    head = ["who", "version", "faster, wall", "faster, CPU", "faster, wall, evicted", "accuracy, points", "MiB"]
    head += ["by OpenVINO: wall, points"] * openvino + ["TensorRT's parser", "remark"]
    rows = [head]
    for entry in entries:
        row = [entry.who, entry.version]
        failure = entry.failures.get("") or entry.failures.get(name)
        if entry.model is None or failure:
            rows.append([*row, *["-"] * (len(head) - 3), noted(f"failed: {failure}")])
            continue
        label = f"{entry.who}|{name}"
        if label == reference:
            p50_ms = [statistics.median(pooled_ns(label, measurement)) / 1e6 for measurement in measured]
            row += [f"p50 {p50_ms[0]:.3f} ms", "", f"p50 {p50_ms[1]:.3f} ms", f"{judged[label].value:.2%}"]
        else:
            row += [times(label, "samples_ns"), times(label, "cpu_ns"), times(label, "samples_ns", evicted)]
            row.append(judged[label].points())
        row.append(f"{len(entry.model) / 2**20:.2f}")
        other = f"{entry.who}|{OPENVINO}"
        if openvino and OPENVINO in entry.failures:
            row.append(noted(f"failed: {entry.failures[OPENVINO]}"))
        elif openvino:
            row.append(f"{times(other, 'samples_ns')}, {100 * judged[other].change:+.2f}")
        rows.append([*row, noted(verdicts[entry.who]), entry.remark])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for index, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for number, note in enumerate(notes, 1):
        print(f"[{number}] {note}")


if __name__ == "__main__":
    sys.exit(main())
