"""What the tables say: the change of each figure and its direction, classes in order, layers in pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.builder.report.report_cases import few_samples, latency, lights, resnet20, signs, unmeasured

from enginewright.report import render_html, render_markdown
from enginewright.report.accuracy import class_changes, confusion_rows, evaluation_sentences
from enginewright.report.caches import caches_rows, caches_sentences
from enginewright.report.comparison import comparison, verdict_sentence
from enginewright.report.data import (
    Changed,
    ClassAccuracy,
    Latency,
    Layer,
    ReportData,
    SessionSamples,
)
from enginewright.report.latency import protocol_sentences, session_medians, session_ratios
from enginewright.report.layers import paired_layers
from enginewright_runtime.budget import Finding, Verdict


def row(data: ReportData, name: str):
    return next(item for item in comparison(data) if item.name == name)


def with_change(drop: float, interval: tuple[float, float]) -> ReportData:
    data = signs()
    assert data.engine.evaluation is not None
    assert data.reference.evaluation is not None
    before = replace(data.reference.evaluation, accuracy=0.9)
    after = replace(data.engine.evaluation, accuracy=0.9 - drop, changed=Changed(5, 5, drop, interval))
    return replace(
        data, reference=replace(data.reference, evaluation=before), engine=replace(data.engine, evaluation=after)
    )


def finding(name: str, verdict: Verdict) -> Finding:
    return Finding(name, 1.0, None, None, None, verdict, "")


def test_both_sides_of_a_row_have_the_same_unit():
    size = row(signs(), "Size")
    assert (size.reference.text, size.engine.text, size.change.text) == ("4.13 MiB", "0.723 MiB", "5.71× smaller")


@pytest.mark.parametrize(
    ("engine", "text", "trend"),
    [(50_000, "2.00× smaller", "better"), (200_000, "2.00× larger", "worse"), (100_500, "the same", "same")],
)
def test_a_ratio_is_told_by_its_direction(engine, text, trend):
    data = signs()
    data = replace(
        data, reference=replace(data.reference, size_bytes=100_000), engine=replace(data.engine, size_bytes=engine)
    )
    assert (row(data, "Size").change.text, row(data, "Size").trend) == (text, trend)


@pytest.mark.parametrize(
    ("drop", "interval", "text", "trend"),
    [
        (0.012, (0.004, 0.02), "−1.20 points", "worse"),
        (-0.012, (-0.02, -0.004), "+1.20 points", "better"),
        (0.003, (-0.004, 0.01), "−0.30 points", "same"),
    ],
)
def test_a_change_of_accuracy_counts_only_when_its_interval_leaves_zero_out(drop, interval, text, trend):
    changed = row(with_change(drop, interval), "Accuracy (top 1)")
    assert (changed.change.text, changed.trend) == (text, trend)


def test_without_a_paired_comparison_the_change_is_the_difference_and_has_no_trend():
    changed = row(few_samples(), "Accuracy (top 1)")
    assert (changed.change.text, changed.change.note, changed.trend) == ("+2.50 points", "", "")


def test_the_change_of_another_metric_is_not_that_of_plain_accuracy():
    data = lights()
    assert data.engine.evaluation is not None
    counted = Changed(broken=30, fixed=0, drop=0.1, interval=(0.05, 0.15))
    data = replace(data, engine=replace(data.engine, evaluation=replace(data.engine.evaluation, changed=counted)))
    changed = row(data, "Balanced accuracy").change
    assert (changed.text, changed.note) == ("−0.34 points", "")
    assert "30 wrong that the reference gets right, and 0 the other way round." in " ".join(evaluation_sentences(data))


def test_sessions_that_disagree_on_which_is_faster_make_it_neither():
    taken = latency(engine_ms=1.86, noise=0.1)
    median = row(replace(signs(), latency=taken), "p50 latency")
    assert min(session_ratios(taken)) < 1 < max(session_ratios(taken))
    assert median.trend == "same"
    assert "the engine is as fast at the median" in verdict_sentence(replace(signs(), latency=taken))


def test_a_percentile_that_cannot_be_had_gives_no_ratio():
    p99 = row(few_samples(), "p99 latency")
    assert (p99.reference.text, p99.engine.text, p99.change.text) == ("—", "—", "—")
    assert p99.change.note == "p99 needs 299 samples or more, and there are 40"


def test_the_ratio_of_the_medians_shows_how_much_sessions_differ():
    ratios = session_ratios(latency())
    assert len(ratios) == 8
    assert row(signs(), "p50 latency").change.note == "ratio by session 2.72× to 2.76×"
    assert min(ratios) == pytest.approx(2.72, abs=0.005)


def test_the_medians_of_warm_and_evicted_caches_stand_side_by_side():
    data = replace(
        signs(), latency_evicted=latency(sessions=4, samples=30, reference_ms=3.0, engine_ms=1.0, evicted=True)
    )
    warm, evicted = caches_rows(data)
    assert (warm.caches, warm.reference.text, warm.engine.text, warm.ratio.text) == (
        "warm",
        "1.86 ms",
        "0.680 ms",
        "2.73×",
    )
    assert (evicted.caches, evicted.engine.text) == ("evicted", "1.01 ms")
    assert warm.ratio.note == "2.72× to 2.76×"
    low, high = (float(end) for end in evicted.engine.note.split(" to "))
    assert low < 1.0 < high
    assert "its process writes 256 MiB" in caches_sentences(data)[1]
    assert "4 sessions of 30 samples of each engine" in caches_sentences(data)[1]


def test_one_session_gives_a_median_without_its_interval():
    once = latency(sessions=1, samples=30, evicted=True)
    _, evicted = caches_rows(replace(signs(), latency_evicted=once))
    assert evicted.engine.text.endswith(" ms")
    assert (evicted.engine.note, evicted.ratio.note) == ("", "")


def test_without_evicted_caches_there_is_nothing_to_set_beside():
    assert caches_rows(few_samples()) == ()
    assert caches_sentences(few_samples()) == ()
    assert "evicted" not in render_html(few_samples())
    assert "evicted" not in render_markdown(few_samples())


def test_figures_that_nobody_has_are_left_out():
    assert [item.name for item in comparison(unmeasured())] == [
        "Accuracy (top 1)",
        "Agreement",
        "Signal to noise, logits",
        "Size",
        "Weights",
        "MACs",
    ]
    assert "Accuracy (top 1)" not in [item.name for item in comparison(resnet20())]


@pytest.mark.parametrize(
    ("verdict", "findings", "said"),
    [
        (Verdict.PASS, (), "No budget was set, so nothing was judged"),
        (Verdict.PASS, (finding("size_mib", Verdict.PASS),), "The engine keeps within the budget of size"),
        (
            Verdict.FAIL,
            (finding("latency_p99_ms", Verdict.FAIL), finding("size_mib", Verdict.PASS)),
            "The engine misses 1 of 2 budgets (p99 latency)",
        ),
        (
            Verdict.INCONCLUSIVE,
            (finding("latency_p99_ms", Verdict.INCONCLUSIVE), finding("size_mib", Verdict.PASS)),
            "What was measured leaves 1 of 2 budgets (p99 latency) open",
        ),
    ],
)
def test_the_sentence_names_the_budgets_that_decided(verdict, findings, said):
    sentence = verdict_sentence(replace(signs(), verdict=verdict, findings=findings))
    assert sentence.startswith(f"{said}; against the reference the engine is ")


@pytest.mark.parametrize(
    ("drop", "words"),
    [(0.0, "as accurate"), (0.0067, "0.67 points less accurate"), (-0.01, "1.00 points more accurate")],
)
def test_the_sentence_says_what_was_paid_in_accuracy(drop, words):
    assert verdict_sentence(with_change(drop, (drop - 0.01, drop + 0.01))).endswith(f"5.71× smaller and {words}.")


def test_classes_are_sorted_worst_first_and_those_without_samples_last():
    data = signs()
    assert data.reference.evaluation is not None
    assert data.engine.evaluation is not None
    before = (
        ClassAccuracy("a", 5, 0.8),
        ClassAccuracy("b", 0, None),
        ClassAccuracy("c", 5, 1.0),
        ClassAccuracy("d", 5, 0.6),
    )
    after = (
        ClassAccuracy("a", 5, 1.0),
        ClassAccuracy("b", 0, None),
        ClassAccuracy("c", 5, 0.6),
        ClassAccuracy("d", 5, 0.6),
    )
    data = replace(
        data,
        reference=replace(data.reference, evaluation=replace(data.reference.evaluation, per_class=before)),
        engine=replace(data.engine, evaluation=replace(data.engine.evaluation, per_class=after)),
    )
    assert [entry.name for entry in class_changes(data)] == ["c", "d", "a", "b"]
    assert class_changes(data)[-1].change is None


def test_the_confusion_matrix_keeps_the_references_counts():
    data = signs()
    assert data.reference.evaluation is not None
    assert data.engine.evaluation is not None
    data = replace(
        data,
        reference=replace(data.reference, evaluation=replace(data.reference.evaluation, confusion=((9, 1), (0, 10)))),
        engine=replace(
            data.engine, evaluation=replace(data.engine.evaluation, classes=("a", "b"), confusion=((6, 4), (0, 10)))
        ),
    )
    first, second = confusion_rows(data)
    assert [(cell.samples, cell.before, cell.right) for cell in first.cells] == [(6, 9, True), (4, 1, False)]
    assert [cell.right for cell in second.cells] == [False, True]


def test_layers_pair_by_name_and_position_among_their_namesakes():
    def layer(name: str, macs: int) -> Layer:
        return Layer(name, "Conv", macs, macs, macs, (1,), "float32")

    data = signs()
    data = replace(
        data,
        reference=replace(data.reference, layers=(layer("a", 4), layer("a", 6), layer("gone", 1), layer("", 0))),
        engine=replace(data.engine, layers=(layer("new", 3), layer("a", 2), layer("a", 3), layer("", 0))),
    )
    pairs = paired_layers(data)
    assert [(pair.name, pair.macs.reference, pair.macs.engine) for pair in pairs] == [
        ("a", 4, 2),
        ("a", 6, 3),
        ("gone", 1, None),
        ("(unnamed)", 0, 0),
        ("new", None, 3),
    ]
    assert [pair.works for pair in pairs] == [True, True, True, False, True]
    assert pairs[2].macs.text == "1 → —"


def test_a_session_with_too_few_samples_has_no_median():
    [short] = session_medians(latency(sessions=1, samples=4))
    assert (short.reference_ns, short.engine_ns) == (None, None)


def test_samples_below_the_clocks_resolution_give_no_ratio():
    protocol = latency(sessions=1, samples=5).protocol
    taken = Latency(protocol, (SessionSamples((5,) * 40, (0,) * 40),))
    assert session_ratios(taken) == ()
    assert "| p50 | 0.00000500 ms | 0.00 ms | — |" in render_markdown(replace(signs(), latency=taken))
    assert "nan" not in render_html(replace(signs(), latency=taken))


def test_the_protocol_stands_beside_the_figures():
    text = " ".join(protocol_sentences(latency()))
    for part in (
        "1 thread",
        "warm caches",
        "wall clock",
        "8 sessions",
        "fresh process",
        "random order",
        "1,600 samples",
    ):
        assert part in text


def test_a_protocol_with_one_engine_after_the_other_says_so():
    taken = latency()
    apart = replace(taken, protocol=replace(taken.protocol, interleaved=False))
    assert "one engine after the other" in " ".join(protocol_sentences(apart))
