"""What a bench leaves behind: every raw sample, and under which conditions it was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginewright_runtime.canonical import Json, canonical_bytes

FORMAT = 1  # 1: the first


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One run of a bench. `kind` says which, `settings` how it was asked for, and `sessions` what came, raw.

    The latency bench writes a Measurement in place of this.
    """

    kind: str
    subject: Mapping[str, Json]
    host: Mapping[str, Json]
    telemetry: Mapping[str, Json]
    settings: Mapping[str, Json]
    sessions: Sequence[Mapping[str, Json]]
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """The record as canonical JSON bytes."""
        return canonical_bytes(dict(vars(self)))
