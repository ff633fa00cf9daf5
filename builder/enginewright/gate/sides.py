"""What the gate compares: bundles whose engines run here, and files of measurements that were taken here before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginewright.errors import UsageError
from enginewright_runtime.backends import Array
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.errors import MeasurementError, NoEngineFits
from enginewright_runtime.golden import one_sample, read_golden
from enginewright_runtime.manifest import TensorSpec
from enginewright_runtime.measure import EngineToMeasure
from enginewright_runtime.measurement import Measurement
from enginewright_runtime.session import fitting_engine

__all__ = ["BundleSide", "StoredSide", "read_bundle_side", "read_side"]

_LABELS = ("engine", "candidate")  # what the runtime's bench and this gate call the engine that a file is about


@dataclass(frozen=True)
class BundleSide:
    """A verified bundle, and that of its engines that the gate is about.

    `sha256` and `size_bytes` are the engine's, `accuracy` is None where the bundle has none; `stored` is what was
    measured when it was built.
    """

    path: Path
    engine: EngineToMeasure
    sha256: str
    size_bytes: int
    inputs: Mapping[str, Array]
    specs: tuple[TensorSpec, ...]
    accuracy: float | None
    stored: Measurement | None

    def runs_the_same_engine_as(self, other: BundleSide) -> bool:
        """The same bytes, opened in the same way, on inputs of the same kind: nothing about them can differ here."""
        mine = (self.sha256, self.engine.backend, self.engine.settings, self.specs)
        return mine == (other.sha256, other.engine.backend, other.engine.settings, other.specs)


@dataclass(frozen=True)
class StoredSide:
    """A file of a measurement, and which of its engines is the baseline."""

    path: Path
    measurement: Measurement
    label: str


def read_side(path: Path, folder: Path, *, to_run: bool) -> BundleSide | StoredSide:
    """A bundle or a measurement, whichever the file is. Engines are put into `folder`, which must outlive the side.

    Raises BundleError or MeasurementError with what is wrong with the file; NoEngineFits and BackendMissing where the
    bundle's engine is to run and does not run here.
    """
    try:
        with path.open("rb") as stream:
            is_json = stream.read(1) == b"{"
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint="name a bundle (.ewb)") from None
    return _stored_side(path) if is_json else read_bundle_side(path, folder, to_run=to_run)


def read_bundle_side(path: Path, folder: Path, *, to_run: bool = True) -> BundleSide:
    """A bundle, verified, with its engine in `folder`: the one that runs here, or the first where none is `to_run`."""
    bundle = read_bundle(path)
    if not to_run and not bundle.manifest.engines:
        raise NoEngineFits(f"{path}: it holds no engine yet: it is built on the device")
    entry = fitting_engine(bundle) if to_run else bundle.manifest.engines[0]
    manifest, engine_path = bundle.manifest, folder / bundle.sha256
    engine_path.write_bytes(bundle.read(entry.path))
    inputs = one_sample(read_golden(bundle).inputs, manifest.inputs)
    return BundleSide(
        path=path,
        engine=EngineToMeasure(engine_path, entry.backend, entry.settings, inputs),
        sha256=manifest.files[entry.path].sha256,
        size_bytes=manifest.files[entry.path].size,
        inputs=inputs,
        specs=manifest.inputs,
        accuracy=manifest.accuracy.get("engine"),
        stored=_stored_measurement(bundle, entry.measurement_path),
    )


def _stored_measurement(bundle: Bundle, name: str) -> Measurement | None:
    if name not in bundle.contents:
        return None
    return Measurement.from_bytes(bundle.read(name), source=f"{bundle.path}: {name}")


def _stored_side(path: Path) -> StoredSide:
    measurement = Measurement.from_bytes(path.read_bytes(), source=str(path)).with_caches("warm")
    labels = [label for label in _LABELS if label in measurement.engines] or list(measurement.engines)
    if not labels or (len(labels) > 1 and labels[0] not in _LABELS):
        raise MeasurementError(
            f"{path}: which of its engines is the baseline cannot be told: {', '.join(measurement.engines)}"
        )
    return StoredSide(path, measurement, labels[0])
