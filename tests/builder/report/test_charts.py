"""The charts: marks stand where their figures are, and no measurement can break a picture."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builder.report.report_cases import latency, time_saved, training

from enginewright.report import cells, charts
from enginewright.report.compression_data import Epoch, TimeSaved, Training
from enginewright.report.data import Latency, SessionSamples
from enginewright.report.latency import SessionMedians, percentile_rows
from enginewright.report.svg import LogAxis, element, even_ticks, path
from enginewright.report.training_chart import training_chart
from enginewright_runtime.budget import Finding, Verdict


def finding(value: float, *, limit: float, low: float | None = None, high: float | None = None) -> Finding:
    return Finding("size_mib", limit, value, low, high, Verdict.PASS, "")


def x_of(chart: str, kind: str) -> list[float]:
    """Where the lines of a class stand, in percent."""
    return [float(x) for x in re.findall(rf'<line x1="([-0-9.]+)%" x2="\1%"[^>]*class="{kind}"', chart)]


def test_the_limit_lies_right_of_a_value_within_it_and_left_of_one_beyond():
    for value, limit in ((1.0, 2.0), (2.0, 1.0)):
        chart = cells.budget_bar(finding(value, limit=limit))
        [width] = re.findall(r'width="([0-9.]+)%" height="10" class="verdict', chart)
        [at] = x_of(chart, "limit")
        assert (at > float(width)) == (limit > value)
        assert at / float(width) == pytest.approx(limit / value, rel=1e-3)


def test_a_gain_in_accuracy_is_a_bar_to_the_left_of_zero():
    chart = cells.budget_bar(finding(-0.01, limit=0.01))
    [(start, width)] = re.findall(r'<rect x="([0-9.]+)%" y="7" width="([0-9.]+)%" height="10" class="verdict', chart)
    [at] = x_of(chart, "limit")
    assert float(start) == 0
    assert 0 < float(width) < at


@pytest.mark.parametrize(
    ("low", "high", "stops"), [(0.5, 1.5, 2), (0.5, None, 1), (None, 1.5, 1), (1.0, 1.0, 0), (None, None, 0)]
)
def test_an_interval_has_a_stop_at_each_known_end(low, high, stops):
    assert len(x_of(cells.budget_bar(finding(1.0, limit=2.0, low=low, high=high)), "whisker")) == stops


def test_a_loss_goes_left_and_a_gain_right():
    assert '<rect x="25%" y="3" width="25%" height="8" class="loss"/>' in cells.diverging_bar(-0.02, 0.04)
    assert '<rect x="50%" y="3" width="50%" height="8" class="gain"/>' in cells.diverging_bar(0.04, 0.04)


@pytest.mark.parametrize(
    ("median_us", "x", "kind"), [(5.0, "50%", "gain"), (-5.0, "25%", "loss"), (0.5, "50%", "undecided")]
)
def test_time_saved_goes_right_and_time_lost_left_with_a_colour_where_the_sign_is_sure(median_us, x, kind):
    chart = cells.saving_bar(time_saved(median_us, half_us=1.0), 10_000.0)
    assert re.search(rf'<rect x="{x}" y="3" width="[0-9.]+%" height="8" class="{kind}"/>', chart)


def test_an_interval_is_a_whisker_and_a_modelled_time_has_none():
    saved = time_saved(5.0, half_us=1.0)
    assert '<line x1="70%" x2="80%" y1="7" y2="7" class="whisker"/>' in cells.saving_bar(saved, 10_000.0)
    assert "whisker" not in cells.saving_bar(TimeSaved(5_000.0, 5_000.0, 5_000.0), 10_000.0)


def test_no_whisker_of_any_layer_leaves_its_cell():
    savings = (time_saved(20.0, half_us=9.0), time_saved(-3.0, half_us=40.0))
    extent = cells.largest_saving(savings)
    for saved in savings:
        shares = [float(share) for share in re.findall(r'x[12]?="([-0-9.]+)%"', cells.saving_bar(saved, extent))]
        assert 0 <= min(shares) <= max(shares) <= 100
    assert cells.largest_saving(()) == 0.0


def test_the_mark_of_a_training_stands_at_the_first_of_its_best_epochs():
    found = Training("recover", (Epoch(0, None, 0.5), Epoch(1, 2.0, 0.9), Epoch(2, 1.0, 0.7), Epoch(3, 0.5, 0.9)))
    chart = training_chart(found, "Accuracy")
    [mark] = x_of(chart, "mark engine")
    dots = [float(x) for x in re.findall(r'<circle cx="([0-9.]+)%" cy="[0-9.]+" r="2.5" class="engine"/>', chart)]
    assert dots == sorted(dots)
    assert mark == dots[1]
    assert "kept: epoch 1, 90.00 %" in chart


def test_validation_rises_upwards_and_loss_falls_downwards():
    chart = training_chart(training("recover", epochs=5), "Accuracy")
    for kind, better in (("engine", -1), ("reference", 1)):
        heights = [float(y) for y in re.findall(rf'cy="([0-9.]+)" r="2.5" class="{kind}"', chart)]
        assert (heights[-1] - heights[0]) * better > 10


@given(
    validations=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    losses=st.lists(st.floats(0, 1e6), min_size=40, max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_course_of_a_training_every_point_is_inside_the_picture(validations, losses):
    points = [Epoch(number, losses[number] if number else None, value) for number, value in enumerate(validations)]
    chart = training_chart(Training("recover", tuple(points)), "Accuracy")
    assert "nan" not in chart
    [height] = re.findall(r'^<svg width="100%" height="([0-9.]+)"', chart)
    assert all(0 <= float(y) <= float(height) for y in re.findall(r'c?y[12]?="([-0-9.e]+)"', chart))
    assert all(0 <= float(share) <= 100 for share in re.findall(r'c?x[12]?="([-0-9.e]+)%"', chart))


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), closest=st.sampled_from([0.15, 0.3]))
def test_even_ticks_are_few_and_apart(low, span, closest):
    ticks = even_ticks(low, low + span, closest=closest)
    assert 1 <= len(ticks) <= 8
    assert all(after - before >= closest * span * 0.999 for before, after in pairwise(ticks))


def test_the_marks_stand_in_the_order_of_their_latencies():
    taken = latency()
    chart = charts.distribution_chart(taken, percentile_rows(taken), [charts.LimitLine("p99", 4.0)])
    engine, reference, [limit] = (x_of(chart, kind) for kind in ("mark engine", "mark reference", "limit"))
    assert len(engine) == len(reference) == 2
    assert engine[0] < engine[1] < reference[0] < reference[1] < limit
    assert "p50 0.680" in chart
    assert "p99 budget 4.00 ms" in chart


def test_no_mark_stands_at_a_percentile_that_the_samples_cannot_carry():
    taken = latency(sessions=1, samples=40)
    chart = charts.distribution_chart(taken, percentile_rows(taken), [])
    assert "p50 " in chart
    assert "p99 " not in chart


@given(
    samples=st.lists(st.integers(0, 10**11), min_size=1, max_size=40),
    others=st.lists(st.integers(0, 10**11), min_size=1, max_size=40),
    limit_ms=st.floats(1e-6, 1e6),
)
@settings(max_examples=60, deadline=None)
def test_whatever_was_measured_every_coordinate_is_inside_the_picture(samples, others, limit_ms):
    taken = Latency(latency(sessions=1, samples=5).protocol, (SessionSamples(tuple(samples), tuple(others)),))
    limits = charts.limits_in_reach(taken, [charts.LimitLine("p99", limit_ms)])
    chart = charts.distribution_chart(taken, percentile_rows(taken), limits)
    assert "nan" not in chart
    assert "inf" not in chart
    assert all(-0.01 <= float(share) <= 100.01 for share in re.findall(r'x[12]?="([-0-9.e]+)%"', chart))


def test_a_quiet_machine_looks_quiet_and_a_noisy_one_is_not_cut_off():
    quiet = charts.session_chart([SessionMedians(100.0, 50.0), SessionMedians(100.1, 50.0)])
    noisy = charts.session_chart(
        [SessionMedians(100.0, 50.0), SessionMedians(100.0, 50.0), SessionMedians(170.0, 90.0)]
    )
    assert "+5 %" in quiet
    assert "+100 %" in noisy
    assert all(0 <= float(y) <= 130 for y in re.findall(r'cy="([-0-9.]+)"', noisy))


def test_a_session_without_a_median_leaves_a_gap():
    chart = charts.session_chart([SessionMedians(100.0, None), SessionMedians(100.0, 50.0)])
    assert chart.count('class="reference"') == 2
    assert chart.count('class="engine"') == 1


@given(low=st.floats(1e-6, 1e5), ratio=st.floats(1.5, 1e6))
def test_an_axis_has_round_ticks_that_do_not_touch(low, ratio):
    axis = LogAxis(low, low * ratio)
    ticks = axis.ticks()
    shares = [axis.share(tick) for tick in ticks]
    assert 2 <= len(ticks) <= 12
    assert all(after - before >= 0.09 for before, after in pairwise(shares))
    assert all(-1e-6 <= share <= 1 + 1e-6 for share in shares)
    assert all(len(f"{tick:.10e}".split("e")[0].rstrip("0")) <= 5 for tick in ticks)


def test_text_and_attributes_are_escaped_and_markup_is_not():
    assert element("text", "<b>", class_='"><script>') == '<text class="&#34;&gt;&lt;script&gt;">&lt;b&gt;</text>'
    assert element("g", element("rect", x=1)) == '<g><rect x="1"/></g>'


def test_a_path_comes_back_to_its_points():
    points = [(0.0, 116.0), (8.33, 0.04), (8.33, 50.0), (1000.0, 116.0)]
    [start, *moves] = re.findall(r"[Ml](-?[0-9.]+) (-?[0-9.]+)", path(points, class_="line"))
    x, y = map(float, start)
    for (dx, dy), point in zip(moves, points[1:], strict=True):
        x, y = x + float(dx), y + float(dy)
        assert math.dist((x, y), point) < 0.08
