"""A history of measurements: read from bundles and measurement files, put in order, and kept apart where they differ."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginewright.errors import UsageError
from enginewright_runtime.bundle import read_bundle
from enginewright_runtime.errors import MeasurementError, NotEnoughSamples
from enginewright_runtime.measurement import Measurement, pooled_ns
from enginewright_runtime.stats import percentile

_MIB = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_GIT_LIMIT_S = 30.0


@dataclass(frozen=True)
class Figure:
    """A figure of one commit; `low` and `high` are the extremes over its processes, where it has several."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """One commit's measurement. `label` is the commit, or how its file is called; `figures` are by metric."""

    label: str
    source: Path
    measurement: Measurement
    figures: Mapping[str, Figure]


def read_history(paths: Sequence[Path]) -> list[Point]:
    """The points of bundles (.ewb) and measurement files (.json), and of those in folders.

    In the order of their commits where every file is named after a commit of the repository that the working folder is
    in; else as they are given, those of a folder by name. A file that holds no measurement is an error.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise UsageError("there is no bundle and no measurement file to make a history of")
    points = [point for file in files for point in _read(file)]
    return in_commit_order(points, _commits())


def in_commit_order(points: Sequence[Point], commits: Sequence[str]) -> list[Point]:
    """The points from the oldest commit to the newest, where each is labelled with one; else as they came.

    `commits` are full hashes, oldest first.
    """
    places = []
    for point in points:
        place = next((index for index, commit in enumerate(commits) if commit.startswith(point.label)), None)
        if place is None or not _COMMIT.fullmatch(point.label):
            return list(points)
        places.append(place)
    return [points[index] for index in sorted(range(len(points)), key=lambda index: places[index])]


def comparable(points: Iterable[Point]) -> list[list[Point]]:
    """The points in groups within which latencies compare: one host's fingerprint, one protocol. The order stays."""
    groups: list[list[Point]] = []
    for point in points:
        for group in groups:
            if _alike(group[0].measurement, point.measurement):
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def figures_of(measurement: Measurement, *, accuracy: float | None = None) -> dict[str, Figure]:
    """What the history of one measurement shows, by metric; a percentile that its samples do not carry is left out."""
    sessions = measurement.sessions_ns("engine")
    pooled = pooled_ns("engine", measurement)
    medians = [float(np.median(session)) / 1e6 for session in sessions]
    found = {
        "latency_p50_ms": Figure(float(np.median(medians)), min(medians), max(medians)),
        "memory_mib": Figure(measurement.peak_memory_bytes("engine") / _MIB),
        "size_mib": Figure(measurement.engines["engine"].size_bytes / _MIB),
    }
    with suppress(NotEnoughSamples):
        found["latency_p99_ms"] = Figure(percentile(pooled, 99) / 1e6)
    if accuracy is not None:
        found["accuracy"] = Figure(accuracy)
    return found


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted([*path.glob("*.ewb"), *path.glob("*.json")], key=_natural)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    return [path]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Names with numbers in them in the order of the numbers: run-9 before run-10."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d*)(\D*)", path.name)]


def _read(path: Path) -> list[Point]:
    """The measurements in one file, each of an engine; those with evicted caches are another thing and left out."""
    if path.suffix != ".ewb":
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
        measurement = Measurement.from_bytes(data, source=str(path))
        return [Point(path.stem, path, _with_engine(measurement, str(path)), figures_of(measurement))]
    bundle = read_bundle(path)
    names = [one.measurement_path for one in bundle.manifest.engines if one.measurement_path in bundle.contents]
    if not names:
        raise UsageError(f"{path}: there is no measurement in this bundle", hint="it was built without its device")
    found = []
    for name in names:
        measurement = _with_engine(
            Measurement.from_bytes(bundle.read(name), source=f"{path}: {name}"), f"{path}: {name}"
        )
        figures = figures_of(measurement, accuracy=bundle.manifest.accuracy.get("engine"))
        found.append(Point(path.stem, path, measurement, figures))
    return found


def _with_engine(measurement: Measurement, source: str) -> Measurement:
    if "engine" not in measurement.engines:
        raise UsageError(
            f"{source}: it measures {', '.join(measurement.engines)} side by side, and no engine by itself",
            hint="take the files of `enginewright-runtime bench --output`, or the bundles",
        )
    return measurement


def _alike(one: Measurement, other: Measurement) -> bool:
    try:
        one.require_alike(other)
    except MeasurementError:
        return False
    return True


def _commits() -> list[str]:
    """All commits of the repository here, oldest first; none where there is no repository, or no git."""
    command = ["git", "rev-list", "--reverse", "--topo-order", "--all"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_LIMIT_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()
