"""The report of a build, as one HTML page and as Markdown: `report_data_from_artifacts`, then `render_html` and `render_markdown`."""

from __future__ import annotations

from enginewright.report.artifacts import NetworkArtifacts, report_data_from_artifacts
from enginewright.report.compression_artifacts import CompressionArtifacts
from enginewright.report.data import ReportData
from enginewright.report.render import render_html, render_markdown

__all__ = [
    "CompressionArtifacts",
    "NetworkArtifacts",
    "ReportData",
    "render_html",
    "render_markdown",
    "report_data_from_artifacts",
]
