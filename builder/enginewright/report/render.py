"""From report data to HTML and Markdown. Pure: the same data gives the same bytes, and no clock, disk or network is looked at.

Both templates escape whatever is put into them: names come from recipes, class lists and hosts, and may hold anything.
"""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from enginewright import units
from enginewright.report import accuracy, caches, cells, charts, comparison, compression, device, layers, pending
from enginewright.report.compression_data import Compression
from enginewright.report.data import ReportData
from enginewright.report.engine_layers import engine_view
from enginewright.report.frontier_chart import frontier_chart
from enginewright.report.parts_chart import parts_chart
from enginewright.report.training_chart import training_chart
from enginewright.report.views import device_views, measured_view
from enginewright_runtime.budget import Verdict

_BLOCK = re.compile(r"(#{1,6}|[-+]|\d+[.)])\s")  # at the start of a line: a heading or an item of a list
_NARROW_MATRIX = 4  # classes; a larger confusion matrix wants the whole width
_OPEN_LAYERS = 60  # layers; the bars of more are folded
_OPEN_WARNINGS = 5  # warnings; of more the first ones are open
_OPEN_TRAININGS = 6  # trainings; the last ones are open


def render_html(data: ReportData) -> str:
    """One page that needs nothing else: no script, font, picture or style is fetched."""
    return _environment("html").get_template("report.html.j2").render(_view(data))


def render_markdown(data: ReportData) -> str:
    """The same report, shorter, for a CI job's summary (GitHub's Markdown)."""
    return _environment("markdown").get_template("report.md.j2").render(_view(data))


def html_environment() -> Environment:
    """What other pages than the report are rendered with."""
    return _environment("html")


@cache
def _environment(form: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("enginewright.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_for_markdown if form == "markdown" else _for_html,
    )
    environment.globals.update(
        units=units,
        charts=charts,
        cells=cells,
        frontier_chart=frontier_chart,
        training_chart=training_chart,
        parts_chart=parts_chart,
        OPEN_LAYERS=_OPEN_LAYERS,
        breakable=_breakable,
        NONE=units.NONE,
    )
    return environment


def _view(data: ReportData) -> dict[str, object]:
    """What the templates read: the data, and every table already computed."""
    warnings = (*device.slower_warnings(data.devices), *data.warnings)
    return {
        "data": data,
        "sentence": device.devices_sentence(data) if data.devices else comparison.verdict_sentence(data),
        "rows": comparison.comparison(data),
        "budgets": device.budget_groups(data),
        "inconclusive_means": comparison.INCONCLUSIVE_MEANS if data.verdict is Verdict.INCONCLUSIVE else "",
        "open_warnings": warnings[:_OPEN_WARNINGS],
        "folded_warnings": warnings[_OPEN_WARNINGS:],
        "longest_step": max((step.seconds for step in data.steps), default=0.0) or 1.0,
        **_pending_view(data),
        **_latency_view(data),
        "devices": device_views(data),
        "engine": engine_view(data.engine_layers) if data.engine_layers else None,
        **_accuracy_view(data),
        **_compression_view(data),
        **_layer_view(data),
    }


def _pending_view(data: ReportData) -> dict[str, object]:
    waiting = data.pending
    return {
        "pending": waiting,
        "pending_sentences": pending.pending_sentences(waiting) if waiting else (),
        "floor_rows": pending.floor_rows(waiting) if waiting else (),
        "total_floor": pending.total_floor(waiting) if waiting else "",
        "floors_note": pending.FLOORS_NOTE,
    }


def _latency_view(data: ReportData) -> dict[str, object]:
    return {
        "caches": caches.caches_rows(data),
        "caches_mean": caches.caches_sentences(data),
        "measured": measured_view(data.latency, data.findings) if data.latency else None,
    }


def _accuracy_view(data: ReportData) -> dict[str, object]:
    changes = accuracy.class_changes(data)
    fold = len(changes) > accuracy.FOLD_BEYOND
    return {
        "evaluation_sentences": accuracy.evaluation_sentences(data),
        "accuracy_title": "Agreement" if data.metric == accuracy.FIDELITY else "Accuracy",
        "changes": changes,
        "open_changes": changes[: accuracy.SHOWN_WHEN_FOLDED] if fold else changes,
        "folded_changes": changes[accuracy.SHOWN_WHEN_FOLDED :] if fold else (),
        "extent": max([0.01, *(abs(entry.change) for entry in changes if entry.change is not None)]),
        "confusion": accuracy.confusion_rows(data),
        "narrow_matrix": _NARROW_MATRIX,
    }


def _compression_view(data: ReportData) -> dict[str, object]:
    found = data.compression
    precision, removal = found.precision, found.blocks
    folded = max(0, len(found.trainings) - _OPEN_TRAININGS)
    return {
        "has_compression": found != Compression(),
        "compression": found,
        "metric": comparison.metric_name(data.metric) or "Metric",
        "figure_of": compression.figure_of,
        "precision_sentence": compression.precision_sentence(precision) if precision else "",
        "precision_notes": compression.precision_notes(precision) if precision else (),
        "assignments": compression.assignment_rows(precision) if precision else (),
        "largest_saving": cells.largest_saving(layer.saved for layer in precision.layers) if precision else 0.0,
        "blocks_sentence": compression.blocks_sentence(removal) if removal else "",
        "blocks_note": compression.BLOCKS_NOTE,
        "largest_block": cells.largest_saving(block.saved for block in removal.blocks) if removal else 0.0,
        "calibration_sentence": compression.calibration_sentence(found.calibration) if found.calibration else "",
        "training_rows": tuple(compression.training_row(training) for training in found.trainings),
        "folded_trainings": found.trainings[:folded],
        "frontier_rows": compression.frontier_rows(found.frontier) if found.frontier else (),
        "open_trainings": found.trainings[folded:],
    }


def _layer_view(data: ReportData) -> dict[str, object]:
    pairs = layers.paired_layers(data)
    working = tuple(pair for pair in pairs if pair.works)
    ratios = [pair.layer.ratio_db for pair in working if pair.layer.ratio_db is not None]
    return {
        "pairs": pairs,
        "working": working,
        "largest_macs": max((max(pair.macs.reference or 0, pair.macs.engine or 0) for pair in working), default=0),
        "largest_weights": max(
            (max(pair.weights.reference or 0, pair.weights.engine or 0) for pair in working), default=0
        ),
        "has_noise": bool(ratios),
        "largest_noise": max([1.0, *ratios]),
    }


def _for_html(value: object) -> object:
    return value if isinstance(value, Markup) else _printable(str(value))


def _breakable(name: str) -> Markup:
    """A dotted name that a narrow column may break where a reader would."""
    return Markup(re.sub(r"(?<=[./_])(?=\w)", "<wbr>", str(escape(_printable(name)))))


def _for_markdown(value: object) -> Markup:
    """Text that Markdown shows as it stands, on one line: escaped for HTML first, which Markdown may hold, then for Markdown."""
    if isinstance(value, Markup):
        return value
    text = re.sub(r"\s+", " ", _printable(str(value)))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # an underscore between letters means nothing
    return Markup(re.sub(r"^(\d*)([#+.)-])", r"\1\\\2", text) if _BLOCK.match(text) else text)


def _printable(text: str) -> str:
    """Control characters, and halves of surrogate pairs, which no UTF-8 file can hold, become a replacement mark."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)
