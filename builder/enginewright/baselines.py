"""Baselines: bundles kept under a name, in a folder or an object store, for the gate to compare with.

A store is an address of fsspec (filesystem_spec.readthedocs.io): a folder, s3://bucket/baselines, gs://... Nothing of
what is kept is trusted: a bundle is verified before it is saved and after it is fetched.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enginewright.errors import EnginewrightError, StoreError, UsageError
from enginewright_runtime.atomic import write_file
from enginewright_runtime.bundle import Bundle, read_bundle
from enginewright_runtime.errors import BundleError
from enginewright_runtime.stored_zip import LARGEST_BYTES

ADDRESS_VARIABLE = "ENGINEWRIGHT_BASELINES"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def store_address(given: str | None) -> str:
    """Where the baselines are: what was given, or else what the environment says. Raises UsageError for neither."""
    address = given or os.environ.get(ADDRESS_VARIABLE, "")
    if not address:
        raise UsageError(
            "it is not said where the baselines are kept",
            hint=f"--store FOLDER, --store s3://bucket/folder, or the variable {ADDRESS_VARIABLE}",
        )
    return address


def save(name: str, path: Path, address: str) -> Bundle:
    """Keep the bundle at `path` as the baseline `name`, in place of what had that name. It is verified first.

    In a folder the file takes its name in one step; object stores put an object whole or not at all. Raises BundleError
    for a bundle that is none, UsageError for a bad name, StoreError where the store refuses.
    """
    bundle = read_bundle(path)
    place = _place(name, address)
    with _refusals(place):
        files, inside = _file_system(place)
        if _is_local(files):
            Path(inside).parent.mkdir(parents=True, exist_ok=True)
            write_file(Path(inside), bundle.data)
        else:
            files.makedirs(inside.rpartition("/")[0], exist_ok=True)
            files.pipe_file(inside, bytes(bundle.data))
    return bundle


def fetch(name: str, path: Path, address: str) -> Bundle:
    """Put the baseline `name` at `path` in one step, verified; where it is not whole, `path` stays as it was.

    Raises UsageError where there is no such baseline, BundleError where it was altered, StoreError where the store
    refuses.
    """
    place = _place(name, address)
    with _refusals(place):
        files, inside = _file_system(place)
        if not files.exists(inside):
            raise UsageError(
                f"{address} has no baseline {name!r}", hint=f"enginewright baseline save {name} BUNDLE.ewb"
            )
        if (size := files.size(inside)) is not None and size > LARGEST_BYTES:
            raise BundleError(f"{place}: {size} bytes, and a bundle has at most {LARGEST_BYTES}")
        data = files.cat_file(inside)
    with _refusals(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".enginewright-", dir=path.parent) as folder:
            arrived = Path(folder) / path.name
            arrived.write_bytes(data)
            try:
                read_bundle(arrived)
            except BundleError as error:
                raise BundleError(f"{place}: {error.message.replace(f'{arrived}: ', '')}", hint=error.hint) from None
        write_file(path, data)
    return read_bundle(path)


def _place(name: str, address: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a baseline", hint="letters, digits and . _ + -, as release-1.2")
    return f"{address.rstrip('/')}/{name}.ewb"


def _file_system(place: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError("fsspec is not installed", hint="pip install 'enginewright[baselines]'") from None
    try:
        files, inside = url_to_fs(place)
    except ImportError as error:
        raise UsageError(f"{place}: {error}", hint="fsspec names the package that knows such addresses") from None
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None
    return files, inside


def _is_local(files: Any) -> bool:
    protocols = files.protocol if isinstance(files.protocol, (tuple, list)) else (files.protocol,)
    return "file" in protocols


@contextmanager
def _refusals(place: str) -> Iterator[None]:
    """What a store raises, with the place. fsspec maps most of it to OSError; what is left, as missing credentials, is of
    each store's own library, which have no class in common.
    """
    try:
        yield
    except EnginewrightError:
        raise
    except OSError as error:
        raise StoreError(f"{place}: {error.strerror or error}") from error
    except Exception as error:
        raise StoreError(f"{place}: {type(error).__name__}: {error}", hint="check the store's credentials") from error
