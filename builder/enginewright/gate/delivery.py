"""Where the gate's results go: files that were asked for, and the job summary of GitHub Actions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from enginewright.errors import UsageError
from enginewright.gate.outputs import gate_junit, gate_markdown
from enginewright.gate.run import GateRun
from enginewright.named_files import write_named

__all__ = ["deliver"]

_SUMMARY = "GITHUB_STEP_SUMMARY"


def deliver(
    run: GateRun,
    *,
    markdown: Path | None,
    junit: Path | None,
    output: Path | None,
    environment: Mapping[str, str],
) -> None:
    """Write what was asked for, and append to the job summary where the environment names one.

    There is no file of raw samples where none were taken. Raises UsageError where a file cannot be written.
    """
    if markdown is not None:
        write_named(markdown, gate_markdown(run.result).encode())
    if junit is not None:
        write_named(junit, gate_junit(run.result).encode())
    if output is not None and run.measurements:
        write_named(output, run.measurements[0].to_bytes())
    if summary := environment.get(_SUMMARY):
        try:
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(gate_markdown(run.result))
        except OSError as error:
            raise UsageError(f"{_SUMMARY}={summary}: cannot be written: {error.strerror}") from None
