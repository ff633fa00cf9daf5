"""The wheel that the device gets: this installation's own code, whole, and the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path

import enginewright_runtime
from enginewright.device.wheel import runtime_wheel


def test_the_wheel_holds_every_module_under_its_digest() -> None:
    name, data = runtime_wheel()
    assert name == f"enginewright_runtime-{enginewright_runtime.__version__}-py3-none-any.whl"
    assert runtime_wheel() == (name, data)
    package = Path(enginewright_runtime.__file__).parent
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        sources = {f"enginewright_runtime/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
        assert sources <= set(names)
        [record] = [one for one in names if one.endswith(".dist-info/RECORD")]
        rows = dict(line.split(",", 1) for line in archive.read(record).decode().splitlines())
        assert set(rows) == set(names)
        for one in set(names) - {record}:
            digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(one)).digest()).rstrip(b"=").decode()
            assert rows[one] == f"sha256={digest},{archive.getinfo(one).file_size}"
