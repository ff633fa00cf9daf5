"""The runtime's wheel, made from the runtime that is installed here: the device gets the very code of this build."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

import enginewright_runtime
from enginewright.errors import UsageError

__all__ = ["DISTRIBUTION", "runtime_wheel"]

DISTRIBUTION = "enginewright-runtime"
_WHEEL = "Wheel-Version: 1.0\nGenerator: enginewright\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def runtime_wheel() -> tuple[str, bytes]:
    """The wheel's file name and its bytes, the same ones each time.

    It is put together from the modules and what the installation says of itself, so that no build tool and no network
    is needed (binary distribution format: PyPA specifications, version 1.0). Raises UsageError where the runtime is
    not installed as a distribution.
    """
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise UsageError(f"{DISTRIBUTION} is not installed here", hint=f"pip install {DISTRIBUTION}") from None
    version = distribution.version
    about, entry_points = (distribution.read_text(name) or "" for name in ("METADATA", "entry_points.txt"))
    if not about or not entry_points:
        raise UsageError(
            f"the installation of {DISTRIBUTION} is not whole", hint=f"pip install --force-reinstall {DISTRIBUTION}"
        )
    package = Path(enginewright_runtime.__file__).parent
    files = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    folder = f"{package.name}-{version}.dist-info"
    for name, text in (("METADATA", about), ("WHEEL", _WHEEL), ("entry_points.txt", entry_points)):
        files[f"{folder}/{name}"] = text.encode()
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{folder}/RECORD"] = f"{record}{folder}/RECORD,,\n".encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return f"{package.name}-{version}-py3-none-any.whl", stream.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
