"""Report data from what a build leaves: artifacts, records and the measurement."""

from __future__ import annotations

import doctest
import importlib
from copy import deepcopy

import pytest

from enginewright.errors import StoreError
from enginewright.record import Artifact, Ingredients, Record
from enginewright.report import NetworkArtifacts, render_html, render_markdown, report_data_from_artifacts
from enginewright.report.artifacts import evaluation_from_json, layers_from_json
from enginewright.report.data import (
    Changed,
    ClassAccuracy,
    Fact,
    Layer,
    OutputNoise,
    StepOutput,
)
from enginewright_runtime.budget import Evidence, Verdict, judge
from enginewright_runtime.caches import Caches
from enginewright_runtime.errors import MeasurementError
from enginewright_runtime.measurement import MeasuredEngine, Measurement, Protocol, SessionRecord
from enginewright_runtime.warm_up import WarmUp, WarmUpRule

EVALUATION = {
    "format": 1,
    "metric": "top1",
    "samples": 200,
    "accuracy": 0.95,
    "interval": [0.91, 0.97],
    "confidence": 0.95,
    "classes": ["stop", "give way"],
    "confusion": [[96, 4], [6, 94]],
    "per_class": [
        {"name": "stop", "samples": 100, "accuracy": 0.96},
        {"name": "give way", "samples": 0, "accuracy": None},
    ],
    "agreement": 0.985,
    "signal_to_noise_db": {"logits": 24.5, "same": None},
    "changed": {"broken": 4, "fixed": 2, "drop": 0.01, "interval": [-0.01, 0.03]},
}
LAYER = {
    "name": "stem",
    "op": "Conv",
    "macs": 1_000,
    "weights": 90,
    "weight_bytes": 360,
    "output_shape": ["batch", 8, 4, 4],
    "precision": "int8",
    "snr_db": 30.5,
}
LAYERS = {"format": 1, "layers": [LAYER]}


def measurement(*, sessions: int = 2, caches: Caches = "warm") -> Measurement:
    def warm_up(settled: bool) -> WarmUp:
        return WarmUp(count=100, elapsed_ns=10**9, settled=settled, window_medians_ns=(1_000_000,))

    def conditions(load: float, stalled: int) -> dict:
        return {
            "load_average": [load, 1.0, 1.0],
            "frequency_mhz": 2600.0,
            "pressure_stalled_us": stalled,
            "steal_ticks": None,
        }

    labels = ("reference", "engine")
    return Measurement(
        host={"cpu": "Example", "memory_mib": 24_105, "instruction_sets": ["avx2", "avx_vnni"], "governor": None},
        protocol=Protocol(
            threads={"reference": 2, "engine": 1},
            interleaved=True,
            sessions=sessions,
            rounds=20,
            chunk=5,
            dropped_per_chunk=1,
            seed=0,
            warm_up=WarmUpRule(),
            caches=caches,
            evicted_bytes=64 << 20 if caches == "evicted" else 0,
        ),
        engines={
            label: MeasuredEngine(sha256="0" * 64, size_bytes=1, backend="onnxruntime", settings={}) for label in labels
        },
        sessions=tuple(
            SessionRecord(
                samples_ns={
                    "reference": tuple(range(2_000_000, 2_000_100)),
                    "engine": tuple(range(1_000_000, 1_000_100)),
                },
                cpu_ns=dict.fromkeys(labels, (1,) * 20),
                warm_up={"reference": warm_up(True), "engine": warm_up(number > 0)},
                peak_rss_bytes={"reference": (60 + number) << 20, "engine": 50 << 20},
                conditions_before=conditions(0.5 + number, 1_000),
                conditions_after=conditions(0.75 + number, 501_000),
            )
            for number in range(sessions)
        ),
    )


def record(name: str, stage: str, **summary: object) -> Record:
    ingredients = Ingredients(stage, 1, {}, tools={"numpy": "2.4.6", "onnx": "1.23.0"})
    outputs = {"engine": Artifact("0" * 64, "engine", 2048)}
    return Record(name, ingredients, outputs, 1.5, summary, ("the shape is odd",) if name == "compile" else ())


def report(**changes):
    budget = {"size_mib": 1.0}
    return report_data_from_artifacts(
        **{
            "name": "signs",
            "summary": "",
            "target": "cpu",
            "target_summary": "",
            "recipe": "recipe: 1",
            "findings": judge(budget, Evidence(size_bytes=2 << 20)),
            "steps": (record("compile", "compile", bytes=94_371_840, share=0.35117, difference=1.9e-6, fits=True),),
            "versions": {"jinja2": "3.1.6", "onnx": "1.23.1"},
            "reference": NetworkArtifacts(4_000, EVALUATION, LAYERS),
            "engine": NetworkArtifacts(1_000, EVALUATION, LAYERS),
            "measurement": measurement(),
            "measurement_evicted": measurement(caches="evicted"),
            **changes,
        }
    )


def test_an_evaluation_is_parsed_whole():
    evaluation = evaluation_from_json(EVALUATION, "evaluation")
    assert evaluation.per_class == (ClassAccuracy("stop", 100, 0.96), ClassAccuracy("give way", 0, None))
    assert evaluation.confusion == ((96, 4), (6, 94))
    assert evaluation.changed == Changed(4, 2, 0.01, (-0.01, 0.03))
    assert evaluation.signal_to_noise == (OutputNoise("logits", 24.5),)


def test_what_an_evaluation_lacks_is_none():
    bare = {"format": 1, "metric": "fidelity", "samples": 3, "confidence": 0.95, "accuracy": None, "classes": None}
    evaluation = evaluation_from_json(bare, "evaluation")
    assert (evaluation.accuracy, evaluation.interval, evaluation.changed, evaluation.classes) == (None, None, None, ())


def test_layers_are_parsed_with_their_dynamic_axes():
    assert layers_from_json(LAYERS, "layers") == (
        Layer("stem", "Conv", 1_000, 90, 360, ("batch", 8, 4, 4), "int8", 30.5),
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", 2, "evaluation: format must be 1, got 2"),
        ("samples", -1, "evaluation: samples must be at least 0, got -1"),
        ("interval", [0.5], "evaluation: interval must be a pair, got [0.5]"),
        ("metric", None, "evaluation: metric must be text, got None"),
        ("changed", {"broken": 1, "fixed": 1, "drop": 0.0}, "evaluation: changed must hold an interval"),
        ("confusion", [[1, "2"]], "evaluation: confusion[0][1] must be a whole number, got '2'"),
    ],
)
def test_a_broken_evaluation_is_refused_with_the_place(key, value, said):
    broken = {**deepcopy(EVALUATION), key: value}
    with pytest.raises(StoreError) as caught:
        evaluation_from_json(broken, "evaluation")
    assert str(caught.value).startswith(said)


def test_the_verdict_follows_from_the_findings():
    assert report().verdict is Verdict.FAIL
    assert report(findings=()).verdict is Verdict.PASS


def test_steps_come_from_their_records():
    [step] = report().steps
    assert (step.name, step.stage, step.seconds, step.outputs) == (
        "compile",
        "compile",
        1.5,
        (StepOutput("engine", 2048),),
    )
    assert step.summary == "bytes 94,371,840, share 0.351, difference 1.9e-06, fits yes"


def test_the_times_of_a_step_are_told_in_milliseconds_and_long_lists_in_part():
    summary = {"removed": ["a", "b", "c", "d"], "latency_after_ns": 1_240_000.0, "accuracy": {"float": 0.97}}
    [step] = report(steps=(record("prune_blocks", "prune_blocks", **summary),)).steps
    assert step.summary == "removed (a, b, c and 1 more), latency after 1.24 ms, accuracy (float 0.970)"


def test_warnings_say_which_step_gave_them():
    assert report().warnings == ("compile: the shape is odd",)


def test_versions_are_those_of_every_step_and_of_packing():
    assert report().versions == (Fact("jinja2", "3.1.6"), Fact("numpy", "2.4.6"), Fact("onnx", "1.23.1"))


def test_the_measurement_gives_samples_memory_host_and_conditions():
    data = report()
    assert data.latency is not None
    assert [len(session.engine_ns) for session in data.latency.sessions] == [100, 100]
    assert (data.reference.peak_memory_bytes, data.engine.peak_memory_bytes) == (61 << 20, 50 << 20)
    assert data.host == (
        Fact("cpu", "Example"),
        Fact("memory", "23.5 GiB"),
        Fact("instruction sets", "avx2, avx_vnni"),
        Fact("governor", "unknown"),
    )
    assert data.conditions == (
        Fact("load average", "0.500 to 1.75"),
        Fact("frequency, MHz", "2,600"),
        Fact("waiting for a processor", "1.00 s"),
        Fact("warm-ups that did not settle", "1 of 4"),
    )


def test_the_samples_of_evicted_caches_stand_apart():
    data = report(measurement_evicted=measurement(sessions=3, caches="evicted"))
    assert data.latency is not None
    assert data.latency_evicted is not None
    assert (len(data.latency.sessions), len(data.latency_evicted.sessions)) == (2, 3)
    assert "64.0 MiB" in render_html(data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measurement": measurement(caches="evicted")}, "with warm caches was expected, and this is evicted"),
        ({"measurement_evicted": measurement()}, "with evicted caches was expected, and this is warm"),
    ],
)
def test_a_measurement_in_the_other_one_s_place_is_refused(changes, said):
    with pytest.raises(MeasurementError, match=said):
        report(**changes)


@pytest.mark.parametrize("taken", [None, measurement(sessions=0)], ids=["none", "no sessions"])
def test_a_build_that_measured_nothing_has_a_report(taken):
    data = report(measurement=taken)
    assert data.latency is None
    assert "Nothing was measured" in render_html(data)


def test_data_from_artifacts_renders_in_both_forms():
    data = report()
    assert "2 threads for the reference" in render_html(data)
    assert "| p50 latency | 2.00 ms | 1.00 ms | 2.00× faster" in render_markdown(data)


@pytest.mark.parametrize(
    "module", ["report.comparison", "report.conditions", "report.layers", "report.svg", "units", "step_summary"]
)
def test_the_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(importlib.import_module(f"enginewright.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
