"""Builds that never ran, one for each kind of report: the figures are made up, the same on every machine, and shaped like real ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from enginewright.report.compression_data import (
    Assignment,
    Block,
    BlockRemoval,
    Compression,
    Epoch,
    Frontier,
    FrontierPoint,
    LayerPrecision,
    MethodChoice,
    MethodTrial,
    Precision,
    TimeSaved,
    Training,
)
from enginewright.report.data import (
    Changed,
    ClassAccuracy,
    DeviceRun,
    Evaluation,
    Fact,
    FloorRow,
    Latency,
    Layer,
    Network,
    OutputNoise,
    Pending,
    ReportData,
    SessionSamples,
    StepOutput,
    StepRecord,
)
from enginewright.report.engine_data import EngineLayers, GpuTiming, Quantization, QuantizerPair
from enginewright_runtime.budget import Finding, Verdict
from enginewright_runtime.measurement import Protocol
from enginewright_runtime.tensorrt.engine_layers import EngineLayer
from enginewright_runtime.warm_up import WarmUpRule

SIGNS = (
    "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70", "speed limit 80", "end of speed limit 80",
    "speed limit 100", "speed limit 120", "no overtaking", "no overtaking by lorries", "crossroads with priority", "priority road",
    "give way", "stop", "no vehicles", "no lorries", "no entry", "general danger", "bend to the left", "bend to the right", "double bend",
    "uneven road", "slippery road", "road narrows on the right", "road works", "traffic signals", "pedestrians", "children", "cyclists",
    "snow or ice", "wild animals", "end of all limits", "turn right ahead", "turn left ahead", "ahead only", "ahead or right",
    "ahead or left", "keep right", "keep left", "roundabout", "end of no overtaking", "end of no overtaking by lorries",
)  # fmt: skip

_OPEN = Verdict.INCONCLUSIVE

RECIPE = """recipe: 1
name: signs
model:
  factory: model:SignNet
  arguments: {width: 32}
  weights: signs.safetensors
  inputs: {image: {shape: [batch, 3, 64, 64], dtype: float32}}
  outputs: [logits]
data: {factory: data:Signs}
metric: top1
compress:
  - prune: {importance: taylor, macs: 0.35, round_to: 8, keep: [head]}
  - recover: {epochs: 4, learning_rate: 0.001, distill: {temperature: 4, weight: 0.7}}
  - quantize: {calibration: {method: entropy, samples: 512}}
budget: {accuracy_drop: 0.02}
"""


def latency(
    *,
    sessions: int = 8,
    samples: int = 200,
    reference_ms: float = 1.86,
    engine_ms: float = 0.68,
    noise: float = 0.015,
    evicted: bool = False,
) -> Latency:
    """Log-normal bodies with a slow tail, and sessions that differ by `noise`."""
    random_ = random.Random(7)

    def one(median_ms: float, factor: float) -> int:
        slow = random_.expovariate(3.0) if random_.random() < 0.03 else 0.0
        return round(1e6 * median_ms * factor * math.exp(random_.gauss(0.0, 0.03) + slow))

    taken = []
    for _ in range(sessions):
        factor = math.exp(random_.gauss(0.0, noise))
        taken.append(
            SessionSamples(
                tuple(one(reference_ms, factor) for _ in range(samples)),
                tuple(one(engine_ms, factor * math.exp(random_.gauss(0.0, noise / 2))) for _ in range(samples)),
            )
        )
    protocol = Protocol(
        threads={"engine": 1, "reference": 1},
        caches="evicted" if evicted else "warm",
        evicted_bytes=256 << 20 if evicted else 0,
        clock="wall",
        interleaved=True,
        sessions=sessions,
        rounds=samples if evicted else samples // 5,
        chunk=1 if evicted else 5,
        dropped_per_chunk=0 if evicted else 1,
        seed=0,
        warm_up=WarmUpRule(),
    )
    return Latency(protocol, tuple(taken))


def residual_layers(*, width: float = 1.0, quantized: bool = False) -> tuple[Layer, ...]:
    """Nineteen convolutions and a classifier, as in a small residual network; `width` is the share of the channels that is left."""
    layers, channels, size, number = [], 3, 64, 0
    for stage, (full, blocks) in enumerate(((32, 3), (64, 3), (128, 3))):
        for block in range(blocks * 2 + (stage == 0)):
            kept = max(8, round(full * width / 8) * 8)
            size = size // 2 if block == 0 and stage else size
            weights = channels * kept * 9
            number += 1
            layers.append(
                Layer(
                    name="stem" if number == 1 else f"stage{stage + 1}.block{block // 2 + 1}.conv{block % 2 + 1}",
                    op="Conv",
                    macs=weights * size * size,
                    weights=weights,
                    weight_bytes=weights * (1 if quantized and number > 1 else 4),
                    output_shape=("batch", kept, size, size),
                    precision="int8" if quantized and number > 1 else "float32",
                    ratio_db=38.0 - 0.7 * number - (9.0 if number == 12 else 0.0) if quantized else None,
                )
            )
            layers.append(
                Layer(f"relu{number}", "Relu", 0, 0, 0, ("batch", kept, size, size), "int8" if quantized else "float32")
            )
            channels = kept
    weights = channels * 43 + 43
    layers.append(
        Layer(
            "head", "Gemm", channels * 43, weights, weights * 4, ("batch", 43), "float32", 26.1 if quantized else None
        )
    )
    return tuple(layers)


def evaluations(
    names: tuple[str, ...], *, samples_each: int = 50, with_confusion: bool = False
) -> tuple[Evaluation, Evaluation]:
    """The reference's and the engine's evaluation by accuracy, over as many samples of each class."""
    random_ = random.Random(11)
    rights = []
    for index, _ in enumerate(names):
        right = min(samples_each, samples_each - random_.choice((0, 0, 1, 1, 2, 4)) - (4 if index == 6 else 0))
        rights.append(
            (
                right,
                max(
                    0,
                    min(
                        samples_each, right + random_.choice((-2, -1, -1, 0, 0, 0, 0, 1, 1)) - (3 if index == 2 else 0)
                    ),
                ),
            )
        )
    total = samples_each * len(names)
    before, after = (sum(pair[side] for pair in rights) for side in (0, 1))

    def one(side: int, right: int) -> Evaluation:
        half = 1.96 * math.sqrt(right / total * (1 - right / total) / total)
        return Evaluation(
            metric="top1",
            samples=total,
            accuracy=right / total,
            interval=(right / total - half, min(1.0, right / total + half)),
            classes=names,
            confusion=_confusion([pair[side] for pair in rights], samples_each) if with_confusion else (),
            per_class=tuple(
                ClassAccuracy(name, samples_each, pair[side] / samples_each)
                for name, pair in zip(names, rights, strict=True)
            ),
        )

    drop = (before - after) / total
    changed = Changed(broken=before - after + 9, fixed=9, drop=drop, interval=(drop - 0.0046, drop + 0.0046))
    return one(0, before), replace(
        one(1, after), agreement=0.9861, signal_to_noise=(OutputNoise("logits", 24.37),), changed=changed
    )


def _confusion(rights: list[int], samples_each: int) -> tuple[tuple[int, ...], ...]:
    size = len(rights)
    rows = []
    for index, right in enumerate(rights):
        row = [0] * size
        row[index] = right
        row[(index + 1) % size] += samples_each - right
        rows.append(tuple(row))
    return tuple(rows)


def time_saved(median_us: float, *, half_us: float = 0.8) -> TimeSaved:
    return TimeSaved(1e3 * (median_us - half_us), 1e3 * median_us, 1e3 * (median_us + half_us))


def precision(names: tuple[str, ...]) -> Precision:
    """Layers in int8 that are faster the more they compute, but for every seventh, and the last, which saves nothing."""
    random_ = random.Random(13)
    layers = []
    for index, name in enumerate(names):
        last = index == len(names) - 1
        saved = -0.3 if last else -6.4 if index % 7 == 3 else 4.0 + 21.0 * random_.random() ** 2
        layers.append(
            LayerPrecision(
                name=name,
                precision="float" if saved < 0 else "int8",
                saved=time_saved(saved, half_us=0.5 + 0.1 * abs(saved)),
                saved_alone=time_saved(saved - 9.2),
                ratio_db=44.0 - 11.0 * random_.random(),
                drop=random_.choice((-0.0039, 0.0, 0.0, 0.0039, 0.0078)),
            )
        )
    return Precision(
        chosen="mixed",
        reason="int8 is slower there",
        modelled=False,
        bound=0.003,
        split="validation",
        assignments=(
            Assignment("all float", 1_240_000.0, 0.9713),
            Assignment("all int8", 742_000.0, 0.9691),
            Assignment("chosen", 691_000.0, 0.9702),
        ),
        layers=tuple(layers),
    )


def block_removal(names: tuple[str, ...]) -> BlockRemoval:
    """Every third block is removed, the last ones first; the first block saves nothing that can be measured."""
    gone = names[::-3]
    return BlockRemoval(
        samples=512,
        loss_before=0.0812,
        loss_after=0.4431,
        latency_before_ns=1_612_000.0,
        latency_after_ns=1_240_000.0,
        blocks=tuple(
            Block(
                name=name,
                loss_rise=0.61 / (index + 1) - 0.07,
                saved=time_saved(0.4 if index == 0 else 150.0 - 6.5 * index, half_us=2.1),
                macs=75_500_000,
                parameters=18_400 * 2 ** (index // 3),
                order=gone.index(name) + 1 if name in gone else None,
            )
            for index, name in enumerate(names)
        ),
    )


def training(step: str, *, epochs: int, start: float = 0.31, best: float = 0.968, kept: int | None = None) -> Training:
    """A loss that falls and a metric that rises up to the epoch `kept`, the last one unless it is given."""
    random_ = random.Random(step)
    points = [Epoch(0, None, start)]
    for number in range(1, epochs + 1):
        share = 1 - math.exp(-4.0 * number / epochs)
        validation = start + (best - start) * share - 0.004 * random_.random()
        points.append(Epoch(number, 1.9 * math.exp(-3.0 * number / epochs) + 0.03 * random_.random(), validation))
    last = epochs if kept is None else kept
    points[last] = replace(points[last], validation=best)
    return Training(step, tuple(points))


def frontier() -> Frontier:
    """Six ways, of which two are beaten by no other; the one in float has no interval."""
    return Frontier(
        "6 sessions of 200 samples, batch 1, one thread, warm caches.",
        2.06,
        (
            FrontierPoint("int8 alone", 0.72, (0.70, 0.75), -0.0002, (-0.0011, 0.0007), int8=True),
            FrontierPoint("30% pruned, int8", 0.57, (0.56, 0.60), 0.0005, (-0.0012, 0.0021), int8=True),
            FrontierPoint("50% pruned, int8", 0.43, (0.42, 0.44), -0.0023, (-0.005, 0.0004), int8=True),
            FrontierPoint("75% pruned, int8", 0.28, (0.27, 0.30), -0.0144, (-0.018, -0.011), int8=True),
            FrontierPoint("75% pruned, float", 0.66, (0.64, 0.71), -0.0139, None, int8=False),
            FrontierPoint("recipe signs-max", 0.1, (0.098, 0.104), -0.0014, (-0.004, 0.0012), int8=True),
        ),
    )


def method_choice(chosen: str = "mse") -> MethodChoice:
    return MethodChoice(
        chosen=chosen,
        reason="the outputs keep the most signal with mse (27.9 dB), and none is surely more accurate",
        held_back=128,
        float_accuracy=0.9766,
        trials=(
            MethodTrial("minmax", 22.31, 0.9609),
            MethodTrial("percentile", 27.42, 0.9766),
            MethodTrial("entropy", 25.07, 0.9688),
            MethodTrial("mse", 27.93, 0.9766),
        ),
    )


def steps() -> tuple[StepRecord, ...]:
    def step(name: str, seconds: float, summary: str, **outputs: int) -> StepRecord:
        made = tuple(StepOutput(output.replace("_", " "), size) for output, size in outputs.items())
        return StepRecord(name, name.rsplit("/", 1)[-1], seconds, made, summary)

    return (
        step("import", 1.21, "1,072,345 weights from signs.safetensors", checkpoint=4_296_112),
        step("reference/export", 6.84, "opset 17, largest difference from torch 1.9e-06", exported=4_312_804),
        step("reference/simplify", 0.92, "61 nodes from 84", network=4_309_216, layers=14_120),
        step("reference/compile", 0.41, "onnxruntime 1.31.1, 1 thread", engine=4_330_552, entry=612),
        step("reference/evaluate", 9.73, "97.26 % on 2,150 samples", evaluation=6_204, outputs=372_118, golden=402_220),
        step("prune", 21.6, "35.1 % of the MACs removed in 14 rounds", checkpoint=2_630_040),
        step(
            "recover",
            252.3,
            "best of 4 epochs is the 4th: 96.98 % on the validation set",
            checkpoint=2_630_040,
            curve=1_204,
        ),
        step("export", 5.12, "opset 17, largest difference from torch 1.4e-06", exported=2_646_118),
        step("simplify", 0.81, "61 nodes from 84", network=2_642_530, layers=14_096),
        step("calibrate", 14.9, "512 samples, entropy, 43 tensors", scales=9_120),
        step(
            "quantize",
            1.74,
            "18 of 20 layers in int8: uint8 activations, 8-bit weights",
            quantized=742_117,
            layers=14_410,
        ),
        step("compile", 0.63, "onnxruntime 1.31.1, 1 thread", engine=758_332, entry=618),
        step("evaluate", 4.02, "96.60 % on 2,150 samples", evaluation=6_377, outputs=372_118, golden=402_220),
        step(
            "measure", 61.8, "8 sessions, 1,600 samples of each engine", measurement=61_204, measurement_evicted=6_118
        ),
    )


def signs() -> ReportData:
    """Issue A's main recipe: 43 classes, pruned, recovered, int8, everything within its budget."""
    before, after = evaluations(SIGNS)
    reference, engine = residual_layers(), residual_layers(width=0.8, quantized=True)
    convolutions = tuple(layer.name for layer in engine if layer.macs)
    blocks = tuple(f"stage{stage}.block{block}" for stage in (1, 2, 3) for block in (1, 2, 3))
    return ReportData(
        name="signs",
        summary="Classifies 43 traffic signs in 64 x 64 pixels.",
        target="cpu",
        target_summary="this computer's processor, one thread, ONNX Runtime",
        verdict=Verdict.PASS,
        findings=(
            Finding("latency_p99_ms", 4.0, 1.13, 1.04, 1.31, Verdict.PASS, "latency_p99_ms is 1.13, within the budget of 4"),
            Finding("size_mib", 2.0, 0.723, None, None, Verdict.PASS, "size_mib is 0.7232, within the budget of 2"),
            Finding("accuracy_drop", 0.02, 0.0116, 0.007, 0.0162, Verdict.PASS, "accuracy_drop is 0.01163, within the budget of 0.02"),
        ),
        recipe=RECIPE,
        steps=steps(),
        reference=Network(4_330_552, before, reference, 148_897_792),
        engine=Network(758_332, after, engine, 131_072_000),
        latency=latency(),
        latency_evicted=latency(sessions=4, samples=30, reference_ms=2.51, engine_ms=0.83, evicted=True),
        versions=(
            Fact("enginewright", "0.1.0"), Fact("torch", "2.13.0"), Fact("torch-pruning", "1.6.1"), Fact("onnx", "1.23.0"),
            Fact("onnxsim", "0.5.0"), Fact("onnxruntime", "1.31.1"), Fact("numpy", "2.4.6"), Fact("python", "3.11.7"),
        ),
        host=(
            Fact("machine", "x86_64"), Fact("cpu", "Example(R) Processor 8000 @ 2.60GHz"),
            Fact("instruction sets", "avx2, avx512f, avx_vnni, avx512_vnni"), Fact("cores", "2"), Fact("memory", "23.5 GiB"),
            Fact("kernel", "6.18.4"), Fact("governor", "unknown"),
        ),
        conditions=(
            Fact("load average", "0.42 to 1.31"), Fact("frequency", "2,600 MHz"), Fact("stalled for a processor", "0.31 s"),
        ),
        compression=Compression(
            precision(convolutions), block_removal(blocks), method_choice(),
            (training("recover", epochs=3), training("recover-2", epochs=8, start=0.84, best=0.9713, kept=7)),
            frontier(),
        ),
    )  # fmt: skip


def in_int8(chosen: Precision) -> Precision:
    """The same with every layer in int8, and no bound on the metric."""
    layers = tuple(replace(layer, precision="int8", saved=time_saved(7.5)) for layer in chosen.layers)
    floating, int8, _ = chosen.assignments
    all_int8 = (floating, int8, replace(int8, name="chosen"))
    return replace(chosen, chosen="int8", reason="", bound=None, layers=layers, assignments=all_int8)


def modelled(chosen: Precision) -> Precision:
    """The same for a target that is not here: the model has no intervals, and says that int8 does not pay."""

    def exact(saved: TimeSaved) -> TimeSaved:
        return TimeSaved(saved.median_ns, saved.median_ns, saved.median_ns)

    layers = tuple(
        replace(layer, precision="float", saved=exact(layer.saved), saved_alone=exact(layer.saved_alone))
        for layer in chosen.layers
    )
    floating, int8, _ = chosen.assignments
    return replace(
        chosen,
        chosen="float",
        modelled=True,
        reason="int8 is not faster than float here: 1.410 ms against 1.240 ms",
        split="calibration",
        layers=layers,
        assignments=(floating, replace(int8, latency_ns=1_410_000.0), replace(floating, name="chosen")),
    )


def unjudged(choice: MethodChoice) -> MethodChoice:
    """The same where the metric could not judge the held-back samples."""
    trials = tuple(replace(trial, accuracy=None) for trial in choice.trials)
    reason = "the outputs keep the most signal with mse (27.9 dB)"
    return replace(choice, reason=reason, float_accuracy=None, trials=trials)


def lights() -> ReportData:
    """Three classes, a confusion matrix, a noisy machine and a verdict that cannot be had."""
    before, after = evaluations(("red", "yellow", "green"), samples_each=99, with_confusion=True)
    data = signs()
    return replace(
        data,
        name="lights",
        summary="The state of a traffic light, from real photographs.",
        verdict=Verdict.INCONCLUSIVE,
        findings=(
            Finding("latency_p99_ms", 0.9, 1.15, 0.84, 1.4, _OPEN, "0.31% to 2.40% of inferences are slower than it, and 1% may be"),
            Finding("accuracy_drop", 0.02, 0.0034, -0.011, 0.024, _OPEN, "297 samples are too few to tell"),
        ),
        reference=replace(data.reference, evaluation=replace(before, metric="balanced_accuracy")),
        engine=replace(data.engine, evaluation=replace(after, metric="balanced_accuracy")),
        latency=latency(noise=0.11),
        compression=Compression(
            precision=in_int8(precision(("conv1", "conv2", "head"))),
            calibration=unjudged(method_choice()),
            trainings=(training("distill", epochs=60, start=0.334, best=0.9899),),
        ),
        warnings=("the load average was above the number of cores in 5 of 8 sessions, so the latencies may be too high",),
    )  # fmt: skip


def resnet20() -> ReportData:
    """No labels: judged by fidelity; no prune, so the layers are the same ones."""
    data = signs()
    layers = residual_layers()
    evaluation = Evaluation(
        metric="fidelity",
        samples=1187,
        interval=(0.9861, 0.9963),
        agreement=0.9924,
        signal_to_noise=(OutputNoise("logits", 31.24),),
    )
    return replace(
        data,
        name="resnet20",
        summary="Somebody else's network, with published weights.",
        findings=(Finding("size_mib", 2.0, 0.361, None, None, Verdict.PASS, "The engine is 0.361 MiB, within 2 MiB."),),
        reference=Network(4_330_552, Evaluation(metric="fidelity", samples=1187), layers),
        engine=Network(1_151_336, evaluation, residual_layers(quantized=True)),
        steps=tuple(step for step in data.steps if step.stage not in ("prune", "recover")),
        compression=Compression(modelled(precision(tuple(layer.name for layer in layers if layer.macs)))),
    )


def unmeasured() -> ReportData:
    """A failure that needs no measurement, and none was taken."""
    data = signs()
    return replace(
        data,
        verdict=Verdict.FAIL,
        findings=(
            Finding(
                "latency_p99_ms",
                0.5,
                None,
                None,
                None,
                Verdict.INCONCLUSIVE,
                "Nothing was measured, so nothing can be said.",
            ),
            Finding("size_mib", 0.5, 0.723, None, None, Verdict.FAIL, "The engine is 0.723 MiB, beyond 0.5 MiB."),
        ),
        latency=None,
        latency_evicted=None,
        conditions=(),
        reference=replace(data.reference, peak_memory_bytes=None),
        engine=replace(data.engine, peak_memory_bytes=None),
    )


def pending() -> ReportData:
    """An engine that its device compiles: the twin was evaluated, the structure checked, and two layers have floors."""
    data = unmeasured()
    latency_finding = Finding(
        "latency_p99_ms", 1.0, None, None, None, Verdict.PENDING, "latency_p99_ms is pending: the device tells it"
    )
    kept = Finding("accuracy_drop", 0.01, 0.0037, None, None, Verdict.PASS, "accuracy_drop is 0.0037, within 0.01")
    floors = (
        FloorRow("features.0.conv", "float16", 830.0, 1_240.0, "memory"),
        FloorRow("features.1.conv1", "int8", 1_776.9, 350.0, "compute"),
        FloorRow("head", "float16", None, 27.0, "memory"),
    )
    return replace(
        data,
        target="orin",
        target_summary="Jetson AGX Orin 64 GB, JetPack 6.2",
        verdict=Verdict.PENDING,
        findings=(kept, latency_finding),
        pending=Pending(
            reason="this computer is x86_64, and its engine is compiled on aarch64",
            command="enginewright-runtime compile signs-orin.ewb",
            compiled=False,
            power_mode="MAXN",
            checked_by="TensorRT-RTX 1.7.1.116, for compute capability 8.6: 17 int8 layers",
            not_int8=("decoder.up",),
            floors=floors,
            total_floor_ns=3_043.9,
        ),
    )


def engine_layers(*, timed: bool = True) -> EngineLayers:
    """Convolutions fused with their activations, but for one that a pair parts from its own, and one that stays float16."""
    convolutions = [layer.name for layer in residual_layers() if layer.op == "Conv"]
    parted, fallback = convolutions[7], convolutions[-2]
    pair = QuantizerPair(f"{parted}/quantize", f"{parted}/dequantize", parted, ("relu8",), splits=True)
    at_input = QuantizerPair("image/quantize", "image/dequantize", "", ("stem",), splits=False)
    layers, float16 = [reformat("Reformatting CopyNode for Input Tensor 0 to stem", 9_400)], []
    layers.append(
        compiled("image/quantize", nodes=("image/quantize",), kind="Reformat", time_ns=4_100, reads="float32")
    )
    for number, name in enumerate(convolutions, 1):
        took = 41_000 + 2_300 * (number % 5) - 900 * number
        both, activation = (name, f"relu{number}"), (f"relu{number}",)
        if name == parted:
            layers.append(compiled(name, nodes=(name,), time_ns=took, writes="float16"))
            layers.append(compiled("pair", nodes=pair.nodes, kind="Scale", time_ns=5_200, reads="float16"))
            layers.append(compiled("relu8", nodes=activation, kind="PointWise", time_ns=6_100))
        elif name == fallback:
            layers.append(reformat(f"Reformatting CopyNode for Input Tensor 0 to {name}", 7_800))
            layers.append(compiled(name, nodes=both, time_ns=2 * took, reads="float16"))
        else:
            layers.append(compiled(name, nodes=both, time_ns=took))
        float16.append(compiled(name, nodes=both, time_ns=round(1.85 * took), reads="float16", writes="float16"))
    layers.append(compiled("head", nodes=("head",), kind="gemm", time_ns=3_000, reads="float16", writes="float32"))
    float16.append(compiled("head", nodes=("head",), kind="gemm", time_ns=3_050, reads="float16", writes="float32"))
    found = EngineLayers(
        layers=tuple(layers),
        float16=tuple(float16),
        runs=50,
        wanted=tuple(convolutions),
        quantization=Quantization(frozenset({*at_input.nodes, *pair.nodes}), (at_input, pair)),
        floors_ns=dict.fromkeys(convolutions, 1776.9),
    )
    if timed:
        return found
    untimed = tuple(replace(layer, time_ns=None) for layer in found.layers)
    return replace(found, layers=untimed, float16=(), runs=0, floors_ns={})


def compiled(
    name: str,
    *,
    nodes: tuple[str, ...],
    time_ns: int,
    kind: str = "CaskConvolution",
    reads: str = "int8",
    writes: str = "int8",
) -> EngineLayer:
    multiplies = kind in ("CaskConvolution", "gemm")
    return EngineLayer(" + ".join(nodes) or name, kind, nodes, reads, writes, False, multiplies, time_ns)


def reformat(name: str, time_ns: int) -> EngineLayer:
    return EngineLayer(name, "Reformat", (), "float32", "int8", True, False, time_ns)


def orin_run(*, beside: bool = True) -> DeviceRun:
    """An Orin, with or without the same network in float16."""
    found = latency(sessions=5, reference_ms=0.92, engine_ms=0.51)
    protocol = replace(found.protocol, threads={"engine": 1, "float16": 1} if beside else {"engine": 1})
    sessions = found.sessions if beside else tuple(SessionSamples((), one.engine_ns) for one in found.sessions)
    _, after = evaluations(SIGNS)
    p99 = Finding(
        "latency_p99_ms", 1.0, 0.79, 0.74, 0.91, Verdict.PASS, "latency_p99_ms is 0.79, within the budget of 1"
    )
    drop = Finding("accuracy_drop", 0.02, 0.0116, None, None, Verdict.PASS, "accuracy_drop is 0.0116, within 0.02")
    return DeviceRun(
        fingerprint="tensorrt-10.3.0-sm87-aarch64-orin",
        device="Orin",
        gpu_words="Orin (16 SMs, power mode MAXN, clock not held)",
        findings=(drop, p99),
        size_bytes=1_310_720,
        peak_memory_bytes=412_090_368,
        gpu_bytes=96_468_992,
        latency=Latency(protocol, sessions),
        host=(Fact("machine", "aarch64"), Fact("cpu", "ARMv8 Processor rev 1 (v8l)"), Fact("cores", "12")),
        conditions=(Fact("load average", "0.61 to 0.88"),),
        settings=(Fact("tensorrt", "10.3.0"), Fact("device", "Orin"), Fact("sizes", "batch 1, 1, 32")),
        float16_peak_bytes=431_001_600 if beside else None,
        evaluation=replace(after, changed=None, per_class=(), classes=(), confusion=(), signal_to_noise=()),
        gpu=GpuTiming(
            samples=6_214,
            percentiles_ns={"p50": 441_000, "p90": 447_000, "p95": 449_000, "p99": 512_000},
            copies_in_ns=0,
            copies_out_ns=0,
            enqueue_ns=212_000,
            flags=("warm up 200 ms", "least seconds 3", "cuda graph no", "spin wait no", "transfers no"),
            warnings=("the GPU's times vary by 4.1%: lock its clocks, or set a power mode",),
        ),
        layers=engine_layers(),
    )


def finished() -> ReportData:
    """The pending engine, compiled and measured on its device, which evaluated it too."""
    return replace(pending(), verdict=Verdict.PASS, devices=(orin_run(),))


def two_devices() -> ReportData:
    """Two engines in one bundle: one misses a budget, was measured alone, and its layers were not timed."""
    slow = Finding("latency_p99_ms", 1.0, 1.4, 1.3, 1.6, Verdict.FAIL, "latency_p99_ms is 1.4, beyond the budget of 1")
    nano = replace(
        orin_run(beside=False),
        fingerprint="tensorrt-10.7.0-sm87-aarch64-orin-nano",
        device="Orin Nano",
        findings=(slow,),
        evaluation=None,
        gpu=None,
        layers=engine_layers(timed=False),
    )
    return replace(pending(), verdict=Verdict.FAIL, devices=(orin_run(), nano))


def built_here() -> ReportData:
    """A computer that has the GPU itself: no device, and the engine's layers."""
    return replace(signs(), target="l4", target_summary="NVIDIA L4", engine_layers=replace(engine_layers(), float16=()))


def few_samples() -> ReportData:
    """A quick look: one session of 40 samples, which carries p50 and p90 and no more; no budget, one layer, one class."""
    before, after = evaluations(("sign",), samples_each=40)
    layer = residual_layers()[-1]
    data = signs()
    return replace(
        data,
        name="tiny",
        summary="",
        target_summary="",
        findings=(),
        reference=Network(7_316, before, (layer,)),
        engine=Network(7_902, replace(after, changed=None), (layer,)),
        latency=latency(sessions=1, samples=40, reference_ms=0.021, engine_ms=0.022),
        latency_evicted=None,
        compression=Compression(),
        steps=data.steps[:1],
        recipe="",
    )


def hostile() -> ReportData:
    """Names with markup, other scripts, line ends and no end in sight."""
    evil = "<script>alert('x')</script>"
    data = signs()
    names = (evil, "Vorfahrt gewähren | 優先道路", "a_b *c* [d](e) `f`", "very-long-" * 12, "line\nend")
    before, after = evaluations(names, with_confusion=True)
    layer = replace(
        data.engine.layers[0], name="features/denseblock3/denselayer24/" * 4 + "conv2/Conv_output_0_quantized"
    )
    marked = replace(data.engine.layers[2], name=f"{evil}\"'&")
    evil_layer = compiled(evil, nodes=(f"{evil} | a", "b" * 200), kind=evil, time_ns=5, reads=evil, writes=evil)
    evil_pair = QuantizerPair(f"{evil} | q", "d", f"{evil}", (f"{evil} | a",), splits=False)
    alone = compiled("q", nodes=(f"{evil} | q",), time_ns=0)
    pairs = Quantization(frozenset(evil_pair.nodes), (evil_pair,))
    layers = EngineLayers((evil_layer, alone), (evil_layer,), 1, (f"{evil} | a",), pairs)
    run = replace(orin_run(), fingerprint=evil, device=f"{evil} | *d*", settings=(Fact(evil, evil),), layers=layers)
    decided = replace(precision((layer.name, marked.name, "a|b *c*", "d")), reason=f"{evil} | is *slower*")
    return replace(
        data,
        name=f"{evil} signs \N{GREEK SMALL LETTER MU} " + "long" * 30,
        summary=f"{evil} & more",
        target='orin"><img src=x onerror=alert(1)>',
        verdict=Verdict.FAIL,
        findings=(Finding(f"{evil}_ms", 4.0, 5.1, None, None, Verdict.FAIL, f"{evil} is beyond its limit."),),
        recipe=f"name: {evil}\n# {{{{ 7 * 7 }}}} \N{SNOWMAN}\n" + "x" * 400,
        steps=(StepRecord(evil, evil, 1.0, (StepOutput(evil, 10),), f"{evil}\x00\ud800"),),
        reference=replace(data.reference, evaluation=before, layers=(layer, marked)),
        engine=replace(data.engine, evaluation=after, layers=(layer, marked)),
        versions=(Fact(evil, evil),),
        host=(Fact("cpu", f"{evil} </dd>"),),
        compression=Compression(
            decided,
            block_removal((f"{evil} | block", "features/denseblock3/denselayer24/" * 3)),
            replace(method_choice(chosen=evil), trials=(MethodTrial(evil, 1.0, None),)),
            (training(f"{evil} | recover", epochs=1, kept=0),),
        ),
        warnings=(f"{evil} | pipe",),
        pending=Pending(
            evil, f"{evil} | run", True, evil, evil, (evil,), (FloorRow(evil, "int8", 1.0, 2.0, evil),), 2.0
        ),
        devices=(run,),
    )


CASES: Mapping[str, Callable[[], ReportData]] = {
    "signs": signs,
    "lights": lights,
    "resnet20": resnet20,
    "unmeasured": unmeasured,
    "pending": pending,
    "finished": finished,
    "two-devices": two_devices,
    "built-here": built_here,
    "few-samples": few_samples,
    "hostile": hostile,
}
