"""The version that made an engine, read from its first bytes without TensorRT."""

from __future__ import annotations

from dataclasses import dataclass

from enginewright_runtime.errors import EngineError
from enginewright_runtime.tensorrt.library import KINDS, Kind

__all__ = ["Header", "read_header"]

_VERSION = slice(24, 28)  # major, minor, patch, build: in 10.3, 11.1 and TensorRT-RTX 1.7
_TELLS_FROM = 10  # of 8.6 nobody has looked where it stands


@dataclass(frozen=True)
class Header:
    """Which library made an engine, and its version as far as the bytes tell it; empty where they do not."""

    kind: Kind
    version: tuple[int, ...]

    def made_by(self, version: str) -> bool:
        """Whether that version made it, by as many places as both tell."""
        ours = tuple(int(part) for part in version.split(".") if part.isdigit())
        return all(mine == theirs for mine, theirs in zip(ours[:3], self.version, strict=False))


def read_header(engine: bytes) -> Header:
    """The header of an engine. Raises EngineError where the bytes are none of TensorRT's."""
    kind = next((kind for kind in KINDS.values() if engine.startswith(kind.magic)), None)
    if kind is None or len(engine) < _VERSION.stop:
        raise EngineError("this is no engine of TensorRT, or it was cut short", hint="build it again")
    version = tuple(engine[_VERSION])
    if kind.name == "tensorrt" and version[0] < _TELLS_FROM:
        version = ()
    return Header(kind, version)
