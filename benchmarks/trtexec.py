"""NVIDIA's trtexec beside our own timing: the same engine file, in turn, and the GPU times that it exports."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Takes", "TrtexecFailed", "compute_ns", "find_trtexec"]

_FOLDERS = ("/usr/src/tensorrt/bin",)
_LIMIT_S = 300
# What both are to do: no graph, no spinning, copies, one query at a time. From TensorRT 11 on, trtexec's defaults are the
# reverse. What a version does not take, it refuses, and then the next line is tried.
_SAME: Sequence[Sequence[str]] = (
    ("--exposeDMA", "--noDataTransfers=0", "--useCudaGraph=0", "--useSpinWait=0"),
    ("--exposeDMA",),
)


class TrtexecFailed(Exception):
    """It ended with an error; the message has its last lines."""


@dataclass(frozen=True)
class Takes:
    """The GPU's compute times of one run, and the flags that it took besides those of the length."""

    compute_ns: tuple[int, ...]
    flags: tuple[str, ...]


def find_trtexec() -> Path | None:
    """On the PATH, or where NVIDIA's packages put it."""
    found = shutil.which("trtexec") or next(
        (path for folder in _FOLDERS if (path := shutil.which("trtexec", path=folder))), None
    )
    return None if found is None else Path(found)


def compute_ns(
    program: Path,
    engine: Path,
    shapes: Mapping[str, Sequence[int]],
    *,
    warm_up_ms: int,
    seconds: int,
    flags: Sequence[str] | None = None,
) -> Takes:
    """Time an engine file. `shapes`: of the inputs whose size is free. `flags`: those that an earlier run took.

    Raises TrtexecFailed.
    """
    usual = [f"--loadEngine={engine}", f"--warmUp={warm_up_ms}", f"--duration={seconds}", "--iterations=10"]
    if shapes:
        usual.append("--shapes=" + ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()))
    said = ""
    with tempfile.TemporaryDirectory(prefix="enginewright-") as folder:
        times = Path(folder) / "times.json"
        for same in _SAME if flags is None else (flags,):
            command = [str(program), *usual, f"--exportTimes={times}", *same]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
            if done.returncode == 0 and times.is_file():
                return Takes(_read(json.loads(times.read_text())), tuple(same))
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-3:])
    raise TrtexecFailed(said or "it exported no times")


def _read(entries: Any) -> tuple[int, ...]:
    return tuple(round(float(entry["computeMs"]) * 1e6) for entry in entries)
