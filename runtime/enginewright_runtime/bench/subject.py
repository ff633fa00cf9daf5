"""What of a bundle is measured: the engine that runs here, in a file of its own, and one sample of the golden inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enginewright_runtime.backends import Array
from enginewright_runtime.bundle import Bundle
from enginewright_runtime.canonical import Json
from enginewright_runtime.golden import one_sample, read_golden
from enginewright_runtime.manifest import EngineEntry
from enginewright_runtime.measure import EngineToMeasure
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
