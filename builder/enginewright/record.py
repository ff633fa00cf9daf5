"""What the store remembers of a step that ran: everything that its key was made of, in clear, and what came out.

The key is the sha256 of the canonical JSON of `Ingredients`; nothing else decides whether a result may be reused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from enginewright.errors import StoreError
from enginewright_runtime.canonical import Json, canonical_bytes, sha256_hex

__all__ = ["RECORD_FORMAT", "Artifact", "Ingredients", "Record"]

RECORD_FORMAT = 1  # 1: first
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Ingredients:
    """All that a step's result depends on.

    `inputs`, `sources` and `tools` map names to digests, digests and versions. `history` holds the keys of the steps
    before it, by name, for the stages whose result tells that chain.
    """

    stage: str
    version: int
    parameters: Mapping[str, Json]
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    history: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return sha256_hex(canonical_bytes(self.to_json()))

    def to_json(self) -> dict[str, Json]:
        return {
            "stage": self.stage,
            "version": self.version,
            "parameters": dict(self.parameters),
            "inputs": dict(self.inputs),
            "sources": dict(self.sources),
            "tools": dict(self.tools),
            "history": dict(self.history),
        }


@dataclass(frozen=True)
class Artifact:
    """One file in the store: its content's sha256, its kind, and its size in bytes."""

    digest: str
    kind: str
    size: int


@dataclass(frozen=True)
class Record:
    """A step that ran. `summary` is for people: a few names and numbers. `provisional` says why the result must not be
    reused, or is "".
    """

    name: str
    ingredients: Ingredients
    outputs: Mapping[str, Artifact]
    seconds: float
    summary: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    provisional: str = ""

    @property
    def key(self) -> str:
        return self.ingredients.key

    def to_bytes(self) -> bytes:
        """Readable JSON, since people look at it to see why a step ran."""
        content = {
            "format": RECORD_FORMAT,
            "key": self.key,
            "name": self.name,
            "ingredients": self.ingredients.to_json(),
            "outputs": {
                name: {"digest": item.digest, "kind": item.kind, "size": item.size}
                for name, item in self.outputs.items()
            },
            "seconds": round(self.seconds, 3),
            "summary": dict(self.summary),
            "warnings": list(self.warnings),
            "provisional": self.provisional,
        }
        return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Raises StoreError where the bytes are not a record, or its key is not that of its ingredients."""
        try:
            content = json.loads(data)
            if content["format"] != RECORD_FORMAT:
                raise StoreError(f"the record has format {content['format']}, this version reads {RECORD_FORMAT}")
            record = cls(
                name=content["name"],
                ingredients=Ingredients(**content["ingredients"]),
                outputs={name: Artifact(**item) for name, item in content["outputs"].items()},
                seconds=content["seconds"],
                summary=content["summary"],
                warnings=tuple(content["warnings"]),
                provisional=content["provisional"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"not a step record: {error}") from error
        if not all(isinstance(item.digest, str) and _DIGEST.fullmatch(item.digest) for item in record.outputs.values()):
            raise StoreError("the record was altered: an output's digest is no sha256")
        if record.key != content["key"]:
            raise StoreError("the record was altered: its key is not that of what it lists")
        return record
