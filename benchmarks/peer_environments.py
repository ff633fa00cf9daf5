"""The quantizers of others, each in a virtual environment of its own that is made when it is first wanted.

A peer is a script `peers/with_NAME.py`, run by its environment's Python in a folder that has float.onnx and
calibration.npz, where it writes quantized.onnx; `peers/with_NAME.txt` pins everything that it needs.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginewright_runtime.backends import Array

__all__ = ["PEERS", "Peer", "PeerFailed", "quantize_with"]

_SCRIPTS = Path(__file__).parent / "peers"
_LIMIT_SECONDS = 3600
# Most of them report home unless they are told not to.
_QUIET = {"ORT_DISABLE_TELEMETRY": "1", "OLIVE_DISABLE_TELEMETRY": "1", "CI": "true"}


@dataclass(frozen=True)
class Peer:
    """`script` and `arguments` are what is run; `distribution` is the one whose version is shown.

    `asks_for_7_bits`: it is told to keep weights within 7 bits.
    """

    name: str
    script: str
    distribution: str
    arguments: tuple[str, ...] = ()
    asks_for_7_bits: bool = False

    @property
    def requirements(self) -> str:
        return (_SCRIPTS / f"{self.script}.txt").read_text()

    @property
    def version(self) -> str:
        found = re.search(rf"^{re.escape(self.distribution)}==(\S+)", self.requirements, flags=re.MULTILINE)
        assert found, f"peers/{self.script}.txt does not pin {self.distribution}"
        return found[1]


PEERS = (
    Peer("ONNX Runtime", "with_onnxruntime", "onnxruntime"),
    Peer("ONNX Runtime, reduce_range", "with_onnxruntime", "onnxruntime", ("--reduce-range",), asks_for_7_bits=True),
    Peer("ONNX Runtime, uint8 activations", "with_onnxruntime", "onnxruntime", ("--unsigned",)),
    Peer("Olive, reduce_range", "with_olive", "olive-ai", asks_for_7_bits=True),
    Peer("NNCF", "with_nncf", "nncf"),
    Peer("ModelOpt", "with_modelopt", "nvidia-modelopt"),
)


class PeerFailed(Exception):
    """A peer could not be installed, or did not quantize; the message is the last line that it wrote."""


def quantize_with(peer: Peer, network: Path, samples: Mapping[str, Array], *, environments: Path) -> bytes:
    """The ONNX network that `peer` makes of the float `network`, calibrated on `samples` (input name -> array).

    Raises PeerFailed.
    """
    python = _environment(peer, environments)
    with tempfile.TemporaryDirectory(prefix="enginewright-peer-") as folder:
        # Copies: some of them write into what they are given.
        (Path(folder) / "float.onnx").write_bytes(network.read_bytes())
        np.savez(Path(folder) / "calibration.npz", allow_pickle=False, **samples)
        _run([python, "-I", _SCRIPTS / f"{peer.script}.py", *peer.arguments], folder=Path(folder))
        made = Path(folder) / "quantized.onnx"
        if not made.is_file():
            raise PeerFailed("it ended without an error, and wrote no quantized.onnx")
        return made.read_bytes()


def _environment(peer: Peer, environments: Path) -> Path:
    """The Python of the peer's environment. One that was not finished, or was made for other versions, is made anew."""
    digest = hashlib.sha256(peer.requirements.encode()).hexdigest()[:12]
    folder = environments / f"{peer.script}-python{sys.version_info.major}.{sys.version_info.minor}-{digest}"
    python, finished = folder / "bin" / "python", folder / "finished"
    if finished.exists():
        return python
    print(f"installing {peer.name} into {folder}", file=sys.stderr, flush=True)
    environments.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", folder], folder=environments)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if torch := re.search(r"^torch==\S+", peer.requirements, flags=re.MULTILINE):
        _run([*pip, torch[0]], folder=environments)  # with the libraries that its build needs, if it is one for CUDA
    # The list is complete, and some of what it names asks for more than it uses.
    _run([*pip, "--no-deps", "--requirement", _SCRIPTS / f"{peer.script}.txt"], folder=environments)
    finished.touch()
    return python


def _run(command: list[str | Path], *, folder: Path) -> None:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**ours, **_QUIET},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"it took more than {_LIMIT_SECONDS // 60} minutes") from None
    if done.returncode < 0:
        raise PeerFailed(f"it was ended by signal {-done.returncode}")
    if done.returncode > 0:
        said = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
        raise PeerFailed(said[-1] if said else f"it ended with exit code {done.returncode}")
