"""What a measurement on this machine, and the bundle itself, have to say to the bundle's budgets."""

from __future__ import annotations

from enginewright_runtime.budget import Evidence
from enginewright_runtime.manifest import Manifest
from enginewright_runtime.measurement import Measurement


def evidence_of(manifest: Manifest, measurement: Measurement, *, size_bytes: int) -> Evidence:
    """The latency, the size and the memory as found here; the accuracy as evaluated when the bundle was built, of a
    pending engine that of its twin.
    """
    accuracy = manifest.accuracy
    known = {"reference", "engine"} <= accuracy.keys()
    return Evidence(
        sessions_ns=measurement.sessions_ns("engine"),
        size_bytes=size_bytes,
        peak_memory_bytes=measurement.peak_memory_bytes("engine"),
        accuracy_drop=accuracy["reference"] - accuracy["engine"] if known else None,
    )
