"""The section on compression: what it takes from the artifacts, what it says in words, and how the page shows it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
from tests.builder.report.report_cases import (
    block_removal,
    few_samples,
    frontier,
    hostile,
    in_int8,
    lights,
    method_choice,
    modelled,
    precision,
    resnet20,
    signs,
    time_saved,
    training,
    unjudged,
)
from tests.builder.report.test_artifacts import report
from tests.builder.report.test_render import Element, Page, cells, page_of, section

from enginewright.errors import StoreError
from enginewright.report import CompressionArtifacts, render_html, render_markdown
from enginewright.report.compression import (
    assignment_rows,
    blocks_sentence,
    calibration_sentence,
    figure_of,
    precision_notes,
    precision_sentence,
    training_row,
)
from enginewright.report.compression_artifacts import compression_from_artifacts, frontier_from_json
from enginewright.report.compression_data import (
    Block,
    Compression,
    Epoch,
    Frontier,
    LayerPrecision,
    MethodTrial,
    TimeSaved,
    Training,
)
from enginewright.report.frontier_chart import frontier_chart

PRECISION = {
    "format": 1,
    "time": "measured",
    "chosen": "mixed",
    "reason": "int8 is slower there",
    "kept_float": ["head"],
    "accuracy_drop": None,
    "split": "validation",
    "accuracy": {"float": 0.97, "int8": 0.96, "chosen": 0.965},
    "latency_ns": {"float": 1_200_000.0, "int8": 700_000.0, "chosen": 600_000.0},
    "layers": [
        {
            "name": "stem",
            "precision": "int8",
            "saving_ns": [4_000, 5_000, 6_000],
            "saving_alone_ns": [-2_000, -1_000, 0],
            "snr_db": 41.25,
            "accuracy_drop": 0.0039,
        },
        {
            "name": "head",
            "precision": "float",
            "saving_ns": [-300, -200, -100],
            "saving_alone_ns": [-9_000, -8_000, -7_000],
            "snr_db": 38.0,
            "accuracy_drop": 0.0,
        },
    ],
}
BLOCKS = {
    "format": 1,
    "samples": 512,
    "loss_before": 0.1,
    "loss_after": 0.3,
    "latency_before_ns": 2_000_000.0,
    "latency_after_ns": 1_500_000.0,
    "blocks": [
        {
            "name": "stage1.block2",
            "loss_rise": 0.2,
            "saved_ns": [400_000, 500_000, 600_000],
            "macs": 1_000,
            "parameters": 90,
            "removed": True,
            "order": 1,
        },
        {
            "name": "stage2.block2",
            "loss_rise": 1.5,
            "saved_ns": [300_000, 310_000, 320_000],
            "macs": 1_000,
            "parameters": 90,
            "removed": False,
            "order": None,
        },
    ],
}
SCALES = {
    "format": 1,
    "method": "mse",
    "samples": 384,
    "ranges": {},
    "auto": {
        "chosen": "mse",
        "chosen_by": "accuracy",
        "reason": "it keeps the most signal",
        "held_back": 128,
        "metric": "top1",
        "float_accuracy": None,
        "methods": [{"method": "mse", "signal_to_noise_db": 27.9, "accuracy": None}],
    },
}
CURVE = [{"epoch": 0, "loss": None, "validation": 0.5}, {"epoch": 1, "loss": 1.25, "validation": 0.75}]
WHOLE = CompressionArtifacts(PRECISION, BLOCKS, SCALES, {"recover": CURVE})


def rows_of(table: Element) -> dict[str, Element]:
    return {cells(row)[0].text: row for row in next(table.all("tbody")).all("tr")}


def with_layers(number: int):
    names = tuple(f"/model/backbone/stages.{index}/blocks.0/conv/Conv" for index in range(number))
    return replace(signs(), compression=Compression(precision(names)))


def test_the_artifacts_are_parsed_whole():
    found = compression_from_artifacts(WHOLE)
    assert found.precision is not None
    assert (found.precision.chosen, found.precision.modelled, found.precision.bound) == ("mixed", False, None)
    assert [(item.latency_ns, item.accuracy) for item in found.precision.assignments] == [
        (1_200_000.0, 0.97),
        (700_000.0, 0.96),
        (600_000.0, 0.965),
    ]
    assert found.precision.layers[0] == LayerPrecision(
        "stem", "int8", TimeSaved(4_000, 5_000, 6_000), TimeSaved(-2_000, -1_000, 0), 41.25, 0.0039
    )
    assert found.blocks is not None
    assert (found.blocks.loss_after, found.blocks.latency_after_ns) == (0.3, 1_500_000.0)
    assert found.blocks.blocks[1] == Block("stage2.block2", 1.5, TimeSaved(3e5, 3.1e5, 3.2e5), 1_000, 90, None)
    assert found.calibration is not None
    assert (found.calibration.chosen, found.calibration.held_back) == ("mse", 128)
    assert found.calibration.trials == (MethodTrial("mse", 27.9, None),)
    assert found.trainings == (Training("recover", (Epoch(0, None, 0.5), Epoch(1, 1.25, 0.75))),)


def test_what_was_not_decided_is_none():
    named = {key: value for key, value in SCALES.items() if key != "auto"}
    assert compression_from_artifacts(CompressionArtifacts(scales=named)) == Compression()
    assert report().compression == report(compression=CompressionArtifacts(scales=named)).compression == Compression()


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("precision", "format", 2, "precision: format must be 1, got 2"),
        ("precision", "time", "guessed", "precision: time must be measured or modelled, got 'guessed'"),
        ("precision", "layers", [{}], "precision: layers[0] lacks the key 'name'"),
        (
            "blocks",
            "blocks",
            [{"name": "b", "loss_rise": 0.1, "saved_ns": [1, 2]}],
            "blocks: blocks[0].saved_ns must be",
        ),
        ("scales", "auto", {"chosen": 1}, "scales: auto.chosen must be text, got 1"),
        ("curves", "recover-2", [], "the curve of recover-2: the document must hold an epoch"),
    ],
)
def test_a_broken_artifact_is_refused_with_the_place(part, key, value, said):
    broken = deepcopy({"precision": PRECISION, "blocks": BLOCKS, "scales": SCALES, "curves": {}})
    broken[part][key] = value
    with pytest.raises(StoreError) as caught:
        compression_from_artifacts(CompressionArtifacts(**broken))
    assert str(caught.value).startswith(said)


def test_data_from_artifacts_renders_in_both_forms():
    data = report(compression=WHOLE)
    assert "| stem | int8 | +5.0 (+4.0 to +6.0) |" in render_markdown(data)
    assert list(rows_of(table_of(data, "Precision")))[1:] == ["head"]


def test_the_sentence_says_what_was_chosen_why_and_where_the_times_come_from():
    names = ("a", "b", "c", "d", "e")
    mixed = precision(names)
    assert precision_sentence(mixed) == (
        "Chosen: int8 in 3 of 5 layers and float in the other 2, because int8 is slower there; "
        "the times were measured on the target's backend."
    )
    assert precision_sentence(in_int8(mixed)) == (
        "Chosen: int8 in all 5 layers, because no assignment that was tried is faster; "
        "the times were measured on the target's backend."
    )
    assert precision_sentence(modelled(mixed)) == (
        "Chosen: float in all 5 layers, because int8 is not faster than float here: 1.410 ms against 1.240 ms; "
        "the times come from a model of the target, and nothing was timed."
    )
    assert "float in the only layer" in precision_sentence(precision(("a",)))


def test_a_network_without_a_layer_for_int8_says_so_and_shows_no_table():
    data = replace(signs(), compression=Compression(precision(())))
    part = section(page_of(data), "compression")
    assert "No layer of the network can compute in int8." in part
    assert list(part.all("table")) == []


def test_no_interval_and_no_side_by_side_is_claimed_of_a_model():
    measured, model = (" ".join(precision_notes(item)) for item in (precision(("a", "b")), modelled(precision(("a",)))))
    assert "side by side" in measured
    assert "interval" in measured
    assert "side by side" not in model
    assert "interval" not in model


def test_the_assignments_are_compared_with_float():
    rows = {row.name: row for row in assignment_rows(precision(("a", "b")))}
    assert (rows["all int8"].times_faster, rows["all int8"].change) == ("1.67×", "−0.22")
    assert [row.name for row in rows.values() if row.chosen] == ["chosen"]


def test_time_saved_has_its_sign_and_its_interval():
    assert (figure_of(time_saved(12.34)).text, figure_of(time_saved(12.34)).note) == ("+12.3", "+11.5 to +13.1")
    assert figure_of(TimeSaved(-50.0, -50.0, -50.0)).note == ""


def test_removed_blocks_are_counted_with_what_it_did():
    removal = block_removal(("a", "b", "c", "d"))
    assert blocks_sentence(removal).startswith("2 of 4 blocks were removed. Latency: 1.61 ms → 1.24 ms (23.08 % less).")
    grown = replace(removal, latency_after_ns=1.1 * removal.latency_before_ns)
    assert "(10.00 % more)" in blocks_sentence(grown)
    assert blocks_sentence(block_removal(("a",))).startswith("1 of 1 block was removed.")


def test_the_calibration_says_its_reason_and_how_many_samples_were_held_back():
    assert calibration_sentence(method_choice()).startswith("Chosen: mse, because the outputs keep the most signal")
    assert "tried on 128 calibration samples" in calibration_sentence(method_choice())


def test_a_training_that_gained_nothing_kept_what_it_began_with():
    row = training_row(training("recover", epochs=4, start=0.9, best=0.9, kept=0))
    assert (row.kept, row.validation) == ("0 of 4 (as it began)", "90.00 % → 90.00 %")


@pytest.mark.parametrize(("data", "there"), [(signs(), True), (few_samples(), False)])
def test_the_section_and_its_link_are_there_where_something_was_decided(data, there):
    page = page_of(data)
    assert ("compression" in [item.attributes.get("id") for item in page.all("section")]) is there
    assert ("#compression" in [link.attributes["href"] for link in page.all("a")]) is there
    assert ("## Compression" in render_markdown(data)) is there


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (signs(), ["Accuracy against latency", "Precision", "Blocks", "Calibration", "Recovery"]),
        (lights(), ["Precision", "Calibration", "Recovery"]),
        (resnet20(), ["Precision"]),
    ],
)
def test_each_part_is_there_where_its_artifact_is(data, parts):
    found = section(page_of(data), "compression")
    assert [title.text for title in found.all("h3")] == parts
    text = render_markdown(data)
    assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == parts


def test_layers_that_stay_float_stand_out():
    table = table_of(signs(), "Precision")
    marked = [name for name, row in rows_of(table).items() if row.attributes.get("class") == "picked"]
    floating = [name for name, row in rows_of(table).items() if cells(row)[1].text == "float"]
    assert marked == floating != []
    assert "| head | **float** |" in render_markdown(signs())


def test_a_metric_that_a_layer_loses_in_int8_is_a_change_below_zero():
    data = report(compression=WHOLE)
    assert cells(rows_of(table_of(data, "Precision"))["stem"])[-1].text == "−0.39"
    assert "| 41.2 dB | −0.39 |" in render_markdown(data)


def test_the_head_of_the_table_says_on_which_side_int8_is_faster():
    head = next(table_of(signs(), "Precision").all("thead"))
    assert "slower in int8faster" in head.text


def test_removed_blocks_are_marked_in_their_order():
    rows = rows_of(table_of(signs(), "Block"))
    assert [cells(row)[1].text for row in rows.values()] == [
        "stays", "stays", "3rd", "stays", "stays", "2nd", "stays", "stays", "1st",
    ]  # fmt: skip


def test_the_chosen_method_is_marked_and_a_metric_that_could_not_judge_is_left_open():
    data = replace(signs(), compression=Compression(calibration=unjudged(method_choice("entropy"))))
    rows = rows_of(next(section(page_of(data), "compression").all("table")))
    assert [name for name, row in rows.items() if row.attributes.get("class") == "picked"] == ["entropy"]
    assert [cells(row)[3].text for row in rows.values()] == ["—"] * 5


@pytest.mark.parametrize(("layers", "open_"), [(60, True), (61, False), (200, False)])
def test_the_table_of_many_layers_is_folded(layers, open_):
    data = with_layers(layers)
    [fold] = section(page_of(data), "compression").all("details")
    assert ("open" in fold.attributes) is open_
    assert len(rows_of(next(fold.all("table")))) == layers
    assert len(render_html(data).encode()) < 400_000


def test_the_last_trainings_of_many_are_open_and_all_are_in_the_table():
    trainings = tuple(training(f"recover-{number}", epochs=2) for number in range(1, 21))
    data = replace(signs(), compression=Compression(trainings=trainings))
    part = section(page_of(data), "compression")
    [fold] = part.all("details")
    names = [title.text for title in part.all("h4")]
    assert [title.text for title in fold.all("h4")] == names[:14]
    assert names == [item.step for item in trainings]
    assert render_markdown(data).count("| recover-") == 20


def test_markup_in_names_is_shown_and_not_obeyed():
    part = section(page_of(hostile()), "compression")
    for text in ("because <script>alert('x')</script> | is *slower*", "<script>alert('x')</script> | recover"):
        assert text in part
    text = render_markdown(hostile())
    decided = text[text.index("## Compression") : text.index("## Layers")]
    assert "<script" not in decided
    assert "| a\\|b \\*c\\* |" in decided


def table_of(data, head: str) -> Element:
    """The table of the section whose head has this column and bars."""
    tables = section(page_of(data), "compression").all("table")
    return next(
        item for item in tables if "decided" in item.attributes.get("class", "") and head in next(item.all("thead"))
    )


def test_the_frontier_marks_what_no_other_beats_and_numbers_its_points_as_the_chart_does():
    part = section(page_of(signs()), "compression")
    table = next(item for item in part.all("table") if "Times faster" in next(item.all("thead")))
    rows = list(next(table.all("tbody")).all("tr"))
    marked = [cells(row)[1].text for row in rows if row.attributes.get("class") == "picked"]
    assert marked == ["30% pruned, int8", "recipe signs-max"]
    assert [cell.text for cell in cells(rows[5])] == ["6", "recipe signs-max", "0.100 ms", "20.6×", "−0.14"]
    chart = next(item for item in part.all("svg") if item.attributes.get("aria-label") == "Accuracy against latency")
    titles = [circle.text for circle in chart.all("circle")]
    assert titles == [cells(row)[1].text for row in rows]
    assert "| **recipe signs-max** | 0.100 ms | 20.6× | −0.14 |" in render_markdown(signs())


def test_points_on_the_chart_stand_where_their_figures_say():
    fast, slow = frontier().points[5], frontier().points[0]
    chart = Page(str(frontier_chart(Frontier("", 2.0, (fast, slow))))).root
    left, right = (circle.attributes for circle in chart.all("circle"))
    assert float(left["cx"].rstrip("%")) < float(right["cx"].rstrip("%"))
    assert float(left["cy"]) > float(right["cy"])  # the fast one lost more, and down is less


def test_a_frontier_of_another_format_is_refused_with_its_place():
    with pytest.raises(StoreError, match="frontier: format must be 2"):
        frontier_from_json({"format": 1})
