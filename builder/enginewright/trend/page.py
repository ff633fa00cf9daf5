"""The trends as one HTML page that needs nothing else. Pure: the same trends give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

from enginewright.report.render import html_environment
from enginewright.trend.chart import signed_share, trend_chart
from enginewright.trend.trends import Trend

_NAMES = {
    "latency_p50_ms": "Median latency, ms",
    "latency_p99_ms": "p99 latency, ms",
    "memory_mib": "Peak memory, MiB",
    "size_mib": "Size of the engine, MiB",
    "accuracy": "Accuracy of the engine",
}


def render_trends(trends: Sequence[Trend]) -> str:
    """The page."""
    changes = sum(len(series.changes) for trend in trends for series in trend.series)
    return (
        html_environment()
        .get_template("trend.html.j2")
        .render(trends=trends, names=_NAMES, changes=changes, chart=trend_chart, share=signed_share)
    )
