"""The manifest: what a bundle says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from enginewright_runtime.canonical import Json, canonical_bytes, strict_json
from enginewright_runtime.errors import ManifestError
from enginewright_runtime.json_field import JsonField
from enginewright_runtime.stored_zip import LONGEST_PATH, SAFE_PATH

MANIFEST_NAME = "manifest.json"
FORMAT = 1  # 1: the first
LARGEST_BYTES = 4 << 20
MOST_DIMENSIONS = 32
LARGEST_SEQUENCE = (1 << 63) - 1

_DIGEST = r"[0-9a-f]{64}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_DTYPES = r"bool|u?int(?:8|16|32|64)|float(?:16|32|64)"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name, its shape (a whole number or a name per dimension) and its numpy dtype.

    Dimensions with the same name are equal in one call; "?" is free.

    >>> str(TensorSpec("image", ("batch", 3, 64, 64), "float32"))
    'image: float32 [batch, 3, 64, 64]'
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class FileEntry:
    """The digest and the size of one file in the bundle."""

    sha256: str
    size: int


@dataclass(frozen=True)
class EngineEntry:
    """One engine of the bundle: where it is, how to open it, and what a machine must have to run it."""

    fingerprint: str
    backend: str
    path: str
    settings: Mapping[str, Json]
    requires: Mapping[str, str]

    @property
    def measurement_path(self) -> str:
        """Where the bundle has this engine's measurement with warm caches, if it has one."""
        return f"measurements/{self.fingerprint}.json"


@dataclass(frozen=True)
class PendingEngine:
    """An engine that the device makes from the bundle's model: with which backend and settings, and on which devices.

    `requires` holds those of the backend's needs that the device must have; the others it brings itself.
    """

    backend: str
    settings: Mapping[str, Json]
    requires: Mapping[str, str]


@dataclass(frozen=True)
class BuildStep:
    """One step of the build that made the bundle, and its key."""

    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says about itself.

    `sequence` tells newer from older among the bundles of one name; 0 is unnumbered, and then the key is left out.
    `extra` keeps the top-level keys that this version does not know.
    """

    name: str
    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    budget: Mapping[str, float] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    host: Mapping[str, Json] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    engines: tuple[EngineEntry, ...] = ()
    pending: tuple[PendingEngine, ...] = ()
    recipe: str = ""
    steps: tuple[BuildStep, ...] = ()
    sequence: int = 0
    extra: Mapping[str, Json] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> dict[str, Json]:
        """The manifest as a JSON object; `parse_manifest` reads it back equal."""
        return {
            **self.extra,
            "format": self.format,
            "name": self.name,
            "target": self.target,
            "inputs": [_tensor_json(spec) for spec in self.inputs],
            "outputs": [_tensor_json(spec) for spec in self.outputs],
            "budget": self.budget,
            "accuracy": self.accuracy,
            "host": self.host,
            "versions": self.versions,
            "files": {path: {"sha256": entry.sha256, "size": entry.size} for path, entry in self.files.items()},
            "engines": [
                {
                    "fingerprint": engine.fingerprint,
                    "backend": engine.backend,
                    "path": engine.path,
                    "settings": engine.settings,
                    "requires": engine.requires,
                }
                for engine in self.engines
            ],
            **({"pending": [dict(vars(engine)) for engine in self.pending]} if self.pending else {}),
            "recipe": self.recipe,
            "steps": [{"name": step.name, "key": step.key} for step in self.steps],
            **({"sequence": self.sequence} if self.sequence else {}),
        }

    def to_bytes(self) -> bytes:
        """The manifest as canonical JSON bytes."""
        return canonical_bytes(self.to_json())


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest that somebody else may have written.

    Raises ManifestError with the path to the fault. A manifest of a newer format is refused before anything else in
    it is looked at.
    """
    if len(data) > LARGEST_BYTES:
        raise ManifestError(f"{MANIFEST_NAME}: {len(data)} bytes, and {LARGEST_BYTES} is the most that is read")
    try:
        document = JsonField(strict_json(data), MANIFEST_NAME, ManifestError)
    except ValueError as error:
        raise ManifestError(f"{MANIFEST_NAME}: not valid JSON: {error}") from None
    version = document.field("format").integer(least=1)
    if version > FORMAT:
        raise ManifestError(
            f"{MANIFEST_NAME}: format {version} is newer than this runtime reads (format {FORMAT})",
            hint="pip install --upgrade enginewright-runtime",
        )
    manifest = _manifest(document)
    _check_engines(manifest)
    return manifest


def tensor_specs(document: JsonField) -> tuple[TensorSpec, ...]:
    """Read a list of inputs or outputs; their names must differ."""
    specs = tuple(_tensor(item) for item in document.items())
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise document.refuse("must not hold one name twice")
    return specs


def _manifest(document: JsonField) -> Manifest:
    inputs, outputs = tensor_specs(document.field("inputs")), tensor_specs(document.field("outputs"))
    if not inputs or not outputs:
        raise document.field("outputs" if inputs else "inputs").refuse("must not be empty")
    numbered = "sequence" in document.mapping()
    manifest = Manifest(
        name=document.field("name").text(pattern=_NAME, rule="must be a plain name", longest=100),
        target=document.field("target").text(pattern=_NAME, rule="must be a plain name", longest=100),
        inputs=inputs,
        outputs=outputs,
        budget=document.field("budget").numbers(),
        accuracy=document.field("accuracy").numbers(),
        host=document.field("host").mapping(),
        versions=document.field("versions").texts(),
        files={
            _path(path, document.field("files")): FileEntry(
                sha256=_digest(entry.field("sha256")), size=entry.field("size").integer()
            )
            for path, entry in document.field("files").fields().items()
        },
        engines=tuple(_engine(item) for item in document.field("engines").items()),
        pending=tuple(_pending(item) for item in document.field("pending").items())
        if "pending" in document.mapping()
        else (),
        recipe=document.field("recipe").text(longest=LARGEST_BYTES),
        steps=tuple(
            BuildStep(name=item.field("name").text(), key=_digest(item.field("key")))
            for item in document.field("steps").items()
        ),
        sequence=_sequence(document.field("sequence")) if numbered else 0,
    )
    ours = {*manifest.to_json(), "sequence", "pending"}
    extra = {key: value for key, value in document.mapping().items() if key not in ours}
    return replace(manifest, extra=extra)


def _sequence(item: JsonField) -> int:
    if item.integer() > LARGEST_SEQUENCE:
        raise item.refuse(f"must be at most {LARGEST_SEQUENCE}")
    return item.integer()


def _check_engines(manifest: Manifest) -> None:
    fingerprints: set[str] = set()
    for index, engine in enumerate(manifest.engines):
        if engine.path not in manifest.files:
            raise ManifestError(f"{MANIFEST_NAME}: engines[{index}].path {engine.path!r} is not among the files")
        if engine.fingerprint in fingerprints:
            raise ManifestError(f"{MANIFEST_NAME}: two engines have the fingerprint {engine.fingerprint!r}")
        fingerprints.add(engine.fingerprint)
    if MANIFEST_NAME in manifest.files:
        raise ManifestError(f"{MANIFEST_NAME}: the manifest cannot list itself among the files")


def _engine(item: JsonField) -> EngineEntry:
    return EngineEntry(
        fingerprint=item.field("fingerprint").text(pattern=_NAME, rule="must be a plain name", longest=200),
        backend=item.field("backend").text(pattern=_NAME, rule="must be a plain name", longest=100),
        path=_path(item.field("path").text(), item.field("path")),
        settings=item.field("settings").mapping(),
        requires=item.field("requires").texts(),
    )


def _pending(item: JsonField) -> PendingEngine:
    return PendingEngine(
        backend=item.field("backend").text(pattern=_NAME, rule="must be a plain name", longest=100),
        settings=item.field("settings").mapping(),
        requires=item.field("requires").texts(),
    )


def _tensor(item: JsonField) -> TensorSpec:
    dimensions = item.field("shape").items()
    if len(dimensions) > MOST_DIMENSIONS:
        raise item.field("shape").refuse(f"must have at most {MOST_DIMENSIONS} dimensions")
    shape = tuple(
        size.text(pattern=r"[^\x00-\x1f]+", rule="must be one line of text", longest=100)
        if isinstance(size.value, str)
        else size.integer(least=1)
        for size in dimensions
    )
    dtype = item.field("dtype").text(pattern=_DTYPES, rule="must be a numpy dtype such as float32")
    return TensorSpec(item.field("name").text(pattern=r"[^\x00-\x1f]+", rule="must be one line of text"), shape, dtype)


def _tensor_json(spec: TensorSpec) -> dict[str, Json]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _path(path: str, where: JsonField) -> str:
    checked = JsonField(path, MANIFEST_NAME, ManifestError, path=f"{where.path}: the path")
    return checked.text(pattern=SAFE_PATH, rule="must be a plain relative path", longest=LONGEST_PATH)


def _digest(item: JsonField) -> str:
    return item.text(pattern=_DIGEST, rule="must be 64 lower-case hexadecimal digits")
