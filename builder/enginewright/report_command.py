"""`enginewright report`: its options, and what it does."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from enginewright_runtime.budget import Verdict
from enginewright_runtime.canonical import Json

__all__ = ["Reported", "add_report_options", "run_report"]


@dataclass(frozen=True)
class Reported:
    """The page that was written, and what it says. `engines` are those that devices have measured."""

    page: Path
    verdict: Verdict
    engines: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        return {"report": str(self.page), "verdict": self.verdict.value, "engines": list(self.engines)}

    def text(self) -> str:
        measured = f", with {', '.join(self.engines)}" if self.engines else ""
        return f"{self.page}: {self.verdict.value}{measured}"


def add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="REPORT.html",
        help="where to write (default: NAME.report.html, beside the bundle)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run_report(options: argparse.Namespace) -> Reported:
    """Write the page of a bundle, from nothing but the bundle. Raises BundleError where it is none, or was altered;
    UsageError where the page cannot be written.
    """
    from enginewright.named_files import write_named
    from enginewright.report import render_html
    from enginewright.report.bundle_report import report_of_bundle
    from enginewright_runtime.bundle import read_bundle

    data = report_of_bundle(read_bundle(options.bundle))
    page = options.output or options.bundle.with_name(f"{options.bundle.stem}.report.html")
    write_named(page, render_html(data).encode("utf-8"))
    return Reported(page, data.verdict, tuple(run.fingerprint for run in data.devices))
