"""What of a bundle is measured: the engine that runs here, in a file of its own, and one sample of the golden inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enginewright_runtime.backends import Array
from enginewright_runtime.budget import Evidence
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.canonical import Json
from enginewright_runtime.golden import one_sample, read_golden
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.measure import EngineToMeasure
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.npz import write_npz
from enginewright_runtime.session import fitting_engine


@dataclass(frozen=True)
class Subject:
    """A bundle whose engine is to be measured. The files are there as long as the context of `subject` lasts."""

    bundle: Bundle
    entry: EngineEntry
    engine: EngineToMeasure
    inputs: Mapping[str, Array]
    inputs_path: Path

    @property
    def engine_size_bytes(self) -> int:
        """The size of the engine alone."""
        return self.bundle.manifest.files[self.entry.path].size

    def open_request(self) -> dict[str, Json]:
        """What a worker is asked to open; see enginewright_runtime.worker."""
        return {
            "engine": str(self.engine.path),
            "sha256": self.bundle.manifest.files[self.entry.path].sha256,
            "backend": self.entry.backend,
            "settings": self.entry.settings,
            "inputs": str(self.inputs_path),
            "evicted_bytes": 0,
        }

    def evidence(self, measurement: Measurement, *, looks: int = 1) -> Evidence:
        """The latency, the size and the memory as found here; the accuracy as evaluated when the bundle was built."""
        accuracy = self.bundle.manifest.accuracy
        known = {"reference", "engine"} <= accuracy.keys()
        bounded = {"drop_low", "drop_high"} <= accuracy.keys()
        return Evidence(
            sessions_ns=measurement.sessions_ns("engine"),
            looks=looks,
            size_bytes=self.engine_size_bytes,
            peak_memory_bytes=measurement.peak_rss_bytes("engine"),
            accuracy_drop=accuracy["reference"] - accuracy["engine"] if known else None,
            accuracy_drop_interval=(accuracy["drop_low"], accuracy["drop_high"]) if bounded else None,
        )

    def identity(self) -> dict[str, Json]:
        """Which bytes are measured, for every record of it."""
        return {
            "bundle": str(self.bundle.path),
            "bundle_sha256": self.bundle.sha256,
            "engine": self.entry.fingerprint,
            "engine_sha256": self.bundle.manifest.files[self.entry.path].sha256,
        }


@contextmanager
def subject(bundle: Bundle) -> Iterator[Subject]:
    """The engine of a verified bundle that runs here; raises NoEngineFits, BackendMissing or BundleError."""
    entry = fitting_engine(bundle)
    inputs = one_sample(read_golden(bundle).inputs, bundle.manifest.inputs)
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        engine_path, inputs_path = Path(folder) / "engine", Path(folder) / "inputs.npz"
        engine_path.write_bytes(bundle.read(entry.path))
        inputs_path.write_bytes(write_npz(inputs))
        engine = EngineToMeasure(engine_path, entry.backend, entry.settings)
        yield Subject(bundle, entry, engine, inputs, inputs_path)
