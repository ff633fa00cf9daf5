"""Opening a bundle and running it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from enginewright_runtime.backends import Array, OpenEngine, backend
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.errors import BackendMissing, BundleError, EngineError, InputError, NoEngineFits
from enginewright_runtime.manifest import EngineEntry, Manifest, TensorSpec

_MOST_REMEMBERED_SHAPES = 64
_ndarray = np.ndarray


def open(path: str | Path, *, require_key: str | Path | None = None) -> Session:
    """Verify a bundle, and open the first of its engines that runs on this machine.

    `require_key` is the file of a public key that must have signed the bundle. Raises BundleError where the file is not
    a whole, unaltered bundle (SignatureError where that key did not sign it); NoEngineFits with the reason for each
    engine; BackendMissing with what to install where that is all that stands in the way.
    """
    return open_bundle(read_bundle(Path(path), require_key=require_key))


def open_bundle(bundle: Bundle) -> Session:
    """Open a bundle that was read, and so verified, before; see `open`."""
    entry = fitting_engine(bundle)
    engine = backend(entry.backend).open(bundle.read(entry.path), entry.settings)
    try:
        return Session(bundle.manifest, entry, engine)
    except BundleError as error:
        engine.close()
        raise BundleError(f"{bundle.path}: {error.message}") from None


def fitting_engine(bundle: Bundle) -> EngineEntry:
    """The first engine of the bundle that runs on this machine; raises NoEngineFits or BackendMissing."""
    reasons: list[str] = []
    missing: BackendMissing | None = None
    for entry in bundle.manifest.engines:
        try:
            misfit = backend(entry.backend).misfit(entry.requires)
        except BackendMissing as error:
            missing, misfit = error, error.message
        except EngineError as error:
            misfit = error.message
        if not misfit:
            return entry
        reasons.append(f"{entry.fingerprint}: {misfit}")
    if missing:
        raise BackendMissing(f"{bundle.path}: {missing.message}", hint=missing.hint)
    found = "\n".join(f"  {reason}" for reason in reasons) or "  it holds none: its engine is built on the device"
    hint = "on its device: enginewright-runtime compile BUNDLE" if bundle.manifest.pending else ""
    raise NoEngineFits(f"{bundle.path}: no engine of this bundle runs on this machine\n{found}", hint=hint)


class Session:
    """A bundle's engine, ready to run.

    `run` may be called from several threads where the backend allows it (onnxruntime does). Use it as a context
    manager, or call `close`.
    """

    def __init__(self, manifest: Manifest, entry: EngineEntry, engine: OpenEngine) -> None:
        _check_agreement("input", manifest.inputs, engine.inputs)
        _check_agreement("output", manifest.outputs, engine.outputs)
        self.manifest = manifest
        self.entry = entry
        self._engine = engine
        self._expected = tuple((spec.name, np.dtype(spec.dtype)) for spec in manifest.inputs)
        self._fitting_shapes: set[tuple[tuple[int, ...], ...]] = set()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self.manifest.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference: an array for each input's name in, an array for each output's name out.

        Shapes and dtypes must be those of `inputs`; dimensions of one name must be equal. Nothing is converted, and
        nothing is copied unless an array is not C-contiguous. Raises InputError with what was expected and what came.
        """
        # Called at the camera's rate: shapes that fitted once are remembered, and everything that explains is off
        # this path. benchmarks/runtime_overhead.py keeps watch over what it takes.
        if (type(inputs) is not dict and not isinstance(inputs, Mapping)) or len(inputs) != len(self._expected):
            raise self._wrong_names(inputs)
        feed: dict[str, Array] = {}
        shapes: tuple[tuple[int, ...], ...] = ()
        for name, dtype in self._expected:
            array = inputs.get(name)
            # numpy has one object for each of its own dtypes, so that the comparison itself is seldom needed.
            if type(array) is not _ndarray or (array.dtype is not dtype and array.dtype != dtype):
                raise self._wrong_array(name, inputs)
            feed[name] = array if array.flags.c_contiguous else np.ascontiguousarray(array)
            shapes += (array.shape,)
        if shapes not in self._fitting_shapes:
            self._check_shapes(shapes)
        return self._engine.run(feed)

    def close(self) -> None:
        """Free the engine; a `run` after it raises EngineError."""
        self._engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        sizes: dict[str, tuple[int, str]] = {}
        for spec, shape in zip(self.inputs, shapes, strict=True):
            if len(shape) != len(spec.shape):
                raise _misfit(spec, f"shape {_shown(shape)}")
            for wanted, size in zip(spec.shape, shape, strict=True):
                if isinstance(wanted, int):
                    if size != wanted:
                        raise _misfit(spec, f"shape {_shown(shape)}")
                elif size == 0:
                    raise _misfit(spec, f"shape {_shown(shape)}, which is empty")
                elif wanted != "?":
                    first, owner = sizes.setdefault(wanted, (size, spec.name))
                    if first != size:
                        raise InputError(
                            f"the dimension {wanted!r} must be the same everywhere: "
                            f"it is {first} in {owner!r} and {size} in {spec.name!r}"
                        )
        if len(self._fitting_shapes) < _MOST_REMEMBERED_SHAPES:
            self._fitting_shapes.add(shapes)

    def _wrong_names(self, inputs: Mapping[str, Array]) -> InputError:
        expected = [spec.name for spec in self.inputs]
        if not isinstance(inputs, Mapping):
            came = type(inputs).__name__
            hint = f"session.run({{{', '.join(f'{name!r}: ...' for name in expected)}}})"
            return InputError(f"the inputs must be a mapping from names to arrays, got a {came}", hint=hint)
        return InputError(f"the inputs must be {_listed(expected)}, got {_listed(list(inputs))}")

    def _wrong_array(self, name: str, inputs: Mapping[str, Array]) -> InputError:
        if name not in inputs:
            return self._wrong_names(inputs)
        spec = next(spec for spec in self.inputs if spec.name == name)
        array = inputs[name]
        if not isinstance(array, np.ndarray):
            return _misfit(spec, f"a {type(array).__name__}", hint=f"numpy.asarray({name}, numpy.{spec.dtype})")
        if type(array) is not np.ndarray:
            return _misfit(spec, f"a {type(array).__name__}", hint=f"numpy.asarray({name})")
        return _misfit(spec, f"dtype {array.dtype}", hint=f"{name}.astype(numpy.{spec.dtype})")


def _check_agreement(kind: str, declared: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]) -> None:
    """The manifest is what users read, so the engine must keep it; names of dimensions are the manifest's alone."""
    engine_specs = {spec.name: spec for spec in found}
    if sorted(engine_specs) != sorted(spec.name for spec in declared):
        raise BundleError(
            f"its manifest declares the {kind}s {_listed([spec.name for spec in declared])}, "
            f"and its engine has {_listed(list(engine_specs))}"
        )
    for spec in declared:
        other = engine_specs[spec.name]
        sizes = zip(spec.shape, other.shape, strict=False)
        clash = any(isinstance(one, int) and isinstance(two, int) and one != two for one, two in sizes)
        if clash or len(spec.shape) != len(other.shape) or spec.dtype != other.dtype:
            raise BundleError(f"its manifest declares the {kind} {spec}, and its engine has {other}")


def _misfit(spec: TensorSpec, came: str, *, hint: str = "") -> InputError:
    return InputError(f"input {spec.name!r} must be {spec.dtype} of shape {_shown(spec.shape)}, got {came}", hint=hint)


def _shown(shape: tuple[int | str, ...] | tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
